// The table of rows: sorted by its headers, narrowed down by the search, shown page by page. Without this script it is a plain table
// that is folded.
"use strict";
{
  const table = document.getElementById("all");
  if (table) start(table);

  function start(table) {
    const form = document.querySelector(".search");
    const search = document.getElementById("search");
    const pager = document.querySelector(".pager");
    const size = pager.querySelector("select");
    const body = table.tBodies[0];
    const headers = [...table.tHead.rows[0].cells];
    const rows = [...body.rows].map((row) => ({
      row,
      text: row.textContent.toLowerCase(),
      keys: [...row.cells].map(key),
    }));
    let found = rows; // what the search leaves, in the order of the table
    let first = 0; // of them, on the page that is shown

    function key(cell) {
      const text = cell.dataset.key ?? cell.textContent.trim();
      return text === "" || isNaN(text) ? text : Number(text);
    }

    function compare(a, b) {
      return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
    }

    function sort(column) {
      const header = headers[column];
      const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      rows.sort((a, b) => sign * compare(a.keys[column], b.keys[column]) || a.keys[0] - b.keys[0]);
      body.append(...rows.map((one) => one.row));
      document.getElementById("sorted").textContent = `Sorted by ${header.textContent.trim()}, ${direction}`;
      filter();
    }

    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = rows.filter(({ text }) => words.every((word) => text.includes(word)));
      document.getElementById("count").textContent = `${found.length} of ${rows.length} inputs`;
      show(0);
    }

    function perPage() {
      return Number(size.value) || Math.max(1, found.length);
    }

    function show(from) {
      const n = perPage();
      const last = Math.max(0, Math.ceil(found.length / n) - 1) * n;
      first = Math.min(Math.max(0, from), last);
      rows.forEach(({ row }) => { row.hidden = true; });
      found.slice(first, first + n).forEach(({ row }) => { row.hidden = false; });
      const to = Math.min(first + n, found.length);
      document.getElementById("shown").textContent = `${to ? first + 1 : 0}–${to} of ${found.length}`;
      for (const button of pager.querySelectorAll("button")) {
        const target = targetOf(button.dataset.to, n, last);
        button.setAttribute("aria-disabled", String(target < 0 || target > last || target === first)); // it keeps the focus
      }
    }

    function targetOf(name, n, last) {
      return { first: 0, previous: first - n, next: first + n, last }[name];
    }

    function reveal(id) { // the row of a link, whatever the search and the page hide
      const at = () => found.findIndex(({ row }) => row.id === id);
      if (!id.startsWith("input-")) return;
      if (at() < 0) {
        search.value = "";
        filter();
      }
      if (at() < 0) return;
      table.closest("details").open = true;
      show(Math.floor(at() / perPage()) * perPage());
      document.getElementById(id).scrollIntoView();
    }

    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(column));
      header.append(button);
    });
    search.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    size.addEventListener("change", () => show(Math.floor(first / perPage()) * perPage()));
    pager.addEventListener("click", ({ target }) => {
      if (!target.dataset.to || target.getAttribute("aria-disabled") === "true") return;
      const n = perPage();
      show(targetOf(target.dataset.to, n, Math.max(0, Math.ceil(found.length / n) - 1) * n));
      table.scrollIntoView();
    });
    document.addEventListener("click", ({ target }) => { // also a second time on the same link
      const link = target.closest?.('a[href^="#input-"]');
      if (link) setTimeout(() => reveal(link.hash.slice(1)));
    });
    window.addEventListener("hashchange", () => reveal(location.hash.slice(1)));
    form.hidden = pager.hidden = false;
    table.closest("details").open = true;
    filter(); // a reloaded page may still hold the words of before
    reveal(location.hash.slice(1));
  }
}
