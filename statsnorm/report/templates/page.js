(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  root.classList.add("js");

  // A deep link opens every fold around its target.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.matches("details")) target.open = true;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    all(":scope > details", target).forEach((fold) => { fold.open = true; });
    target.scrollIntoView({ behavior: "instant" });
  };
  addEventListener("hashchange", reveal);
  reveal();

  const contents = document.querySelector(".toc details");
  if (matchMedia("(max-width: 75rem)").matches) contents.open = false;

  const folds = () => all(".rest details");
  document.querySelector("[data-do=fold]").addEventListener("click", (event) => {
    const open = event.target.getAttribute("aria-pressed") !== "true";
    folds().forEach((fold) => { fold.open = open; });
    event.target.setAttribute("aria-pressed", String(open));
    event.target.textContent = open ? "Close all" : "Open all";
  });
  document.querySelector("[data-do=theme]").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => { closed.forEach((fold) => { fold.open = false; }); });

  // Contents: mark the section that was asked for while its beginning stands in the upper quarter or,
  // where the page ends too soon for that, in view; else the last that begins above that line.
  const marked = all(".toc a")
    .map((link) => ({ link, section: document.getElementById(link.hash.slice(1)) }))
    .filter((item) => item.section);
  const mark = () => {
    const line = innerHeight / 4;
    const top = (item) => item.section.getBoundingClientRect().top;
    const end = scrollY + innerHeight >= root.scrollHeight - 2;
    const asked = marked.find((item) => item.link.hash === location.hash && top(item) >= -1);
    const there = asked && top(asked) <= (end ? innerHeight : line);
    const current = there ? asked : marked.filter((item) => top(item) <= line).at(-1) || marked[0];
    marked.forEach((item) => item.link.toggleAttribute("aria-current", false));
    if (current) current.link.setAttribute("aria-current", "location");
  };
  let waiting = 0;
  const markSoon = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(mark); };
  addEventListener("scroll", markSoon, { passive: true });
  addEventListener("resize", markSoon);
  addEventListener("hashchange", markSoon);
  document.addEventListener("toggle", markSoon, true);
  mark();

  // Tables: sort, filter, download. A body may begin with a row that names its group.
  const text = (cell) => (cell.dataset.text || cell.textContent).trim();
  const rowsOf = (body) => Array.from(body.rows).filter((row) => row.cells[0].scope !== "rowgroup");
  const order = (numeric, sign) => (a, b) => {
    if (a.key === b.key) return a.place - b.place;
    if (a.key === "" || b.key === "") return a.key === "" ? 1 : -1; // missing last, either way
    const raw = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
    return sign * raw || a.place - b.place;
  };
  const sortBy = (table, header) => {
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    all("th", table).forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const rows = rowsOf(body).map((row, place) => ({ row, place, key: text(row.cells[column]) }));
      rows.sort(order(header.classList.contains("n"), up ? 1 : -1));
      body.append(...rows.map((item) => item.row));
    }
  };
  const filter = (table, words) => {
    let [left, total] = [0, 0];
    for (const body of table.tBodies) {
      const rows = rowsOf(body);
      const name = rows.length < body.rows.length ? body.rows[0] : null;
      rows.forEach((row) => {
        const content = `${name ? name.textContent : ""} ${row.textContent}`.toLowerCase();
        row.hidden = !words.every((word) => content.includes(word));
      });
      const shown = rows.filter((row) => !row.hidden).length;
      if (name) name.hidden = !shown;
      left += shown;
      total += rows.length;
    }
    return words.length ? `${left} of ${total} rows` : "";
  };
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const download = (table, name) => {
    const grouped = Boolean(table.tBodies[0].dataset.group);
    const line = (row, group) => [...(grouped ? [group] : []), ...Array.from(row.cells, text)].map(quoted).join(",");
    const lines = [line(table.tHead.rows[0], "hypothesis")];
    for (const body of table.tBodies) rowsOf(body).filter((row) => !row.hidden).forEach((row) => lines.push(line(row, body.dataset.group)));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  all("[data-table]").forEach((box) => {
    const table = box.querySelector("table");
    all("th button", table).forEach((button) => button.addEventListener("click", () => sortBy(table, button.parentElement)));
    const search = box.querySelector("input");
    const count = box.querySelector("[role=status]");
    search.addEventListener("input", () => {
      count.textContent = filter(table, search.value.toLowerCase().split(/\s+/).filter(Boolean));
    });
    box.querySelector("[data-do=csv]").addEventListener("click", () => download(table, box.dataset.table));
  });

  // Figures: the drawing itself moves into the dialog and back, so no id is there twice.
  const dialog = document.querySelector("dialog");
  const stage = dialog.querySelector(".stage");
  let home = null;
  const enlarge = (figure) => {
    home = figure.querySelector(".art");
    dialog.querySelector("b").textContent = figure.querySelector("figcaption b").textContent;
    stage.classList.toggle("raster", home.classList.contains("raster"));
    stage.append(...home.childNodes);
    dialog.showModal();
  };
  dialog.addEventListener("close", () => { home.append(...stage.childNodes); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target === stage) dialog.close(); });
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  all("figure:has(.enlarge)").forEach((figure) => {
    figure.querySelector(".enlarge").addEventListener("click", () => enlarge(figure));
    figure.querySelector(".art").addEventListener("click", () => enlarge(figure));
  });
})();
