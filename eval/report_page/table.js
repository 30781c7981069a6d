// The table of all outputs: sorted by its headers, narrowed down by the search. Without this script it is a plain table.
"use strict";
const table = document.getElementById("all");
if (table) {
  const form = document.querySelector(".search");
  const search = document.getElementById("search");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row) => ({
    row,
    text: row.textContent.toLowerCase(),
    keys: [...row.cells].map(key),
  }));

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
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${rows.length} inputs`;
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
  form.hidden = false;
  filter(); // a reloaded page may still hold the words of before

  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.hidden) { // a link to a row that the search hides
      search.value = "";
      filter();
      target.scrollIntoView();
    }
  });
}
