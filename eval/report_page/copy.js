// Buttons that copy commands. Without this script they are not shown.
{
  function text(element) { // a command, or all of them, each after the success of the one before
    const several = [...element.querySelectorAll("pre")];
    return (several.length ? several : [element]).map((one) => one.textContent).join(" &&\n");
  }

  async function copy(words) {
    try {
      await navigator.clipboard.writeText(words);
    } catch { // a page that is no secure place has no clipboard
      const area = document.createElement("textarea");
      area.value = words;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    const called = button.textContent;
    button.addEventListener("click", async () => {
      await copy(text(document.getElementById(button.dataset.copy)));
      button.focus();
      button.textContent = document.getElementById("copied").textContent = "Copied";
      setTimeout(() => { button.textContent = called; }, 2000);
    });
    button.hidden = false;
    button.closest(".copies")?.removeAttribute("hidden");
  }
}
