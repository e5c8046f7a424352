"use strict";
// Sorting, filters that live in the link, significance groups, the image viewer, the theme. No dependencies, nothing fetched.

const number = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
const words = new Intl.Collator("en", { numeric: true });

/** Compare two cell values: numbers as numbers, words as people do; what is empty comes last either way. */
function compare(a, b, down) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [number(a), number(b)];
  const order = x !== null && y !== null ? x - y : words.compare(a, b);
  return down ? -order : order;
}

const value = (cell) => cell.dataset.v ?? cell.textContent.trim();

function mark(heads, chosen, down) {
  for (const head of heads) {
    if (head === chosen) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

/** Let a plain table be sorted by its heads, and searched where it is long. */
function plain(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("num");
      const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : first;
      mark(heads, head, down);
      body.append(...[...body.rows].sort((a, b) => compare(value(a.cells[column]), value(b.cells[column]), down)));
    });
  });
  if (!table.classList.contains("searchable")) return;
  const label = document.createElement("label");
  label.className = "search";
  label.append("Search ");
  const box = document.createElement("input");
  box.type = "search";
  label.append(box);
  table.closest(".scroll").before(label);
  const show = () => {
    const sought = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !sought.every((word) => text.includes(word));
    }
    const link = new URLSearchParams(box.value ? { q: box.value } : {});
    history.replaceState(null, "", "#" + link);
  };
  const read = () => { box.value = new URLSearchParams(location.hash.slice(1)).get("q") ?? ""; show(); };
  box.addEventListener("input", show);
  addEventListener("hashchange", read);
  read();
}

const FIRST = 200; // rows drawn at once; the others are a click away

/** The table of a board: everything that is chosen stands in the link. */
function board(table) {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const heads = [...table.tHead.rows[0].cells];
  const column = Object.fromEntries(heads.map((head, place) => [head.dataset.key, place]));
  const body = table.tBodies[0];
  const more = document.getElementById("more");
  // what is beyond the first rows waits outside the page, where it costs no layout
  const rest = document.getElementById("rest")?.content.querySelectorAll("tr") ?? [];
  const rows = [...body.rows, ...rest].map((row) => {
    const cells = row.cells;
    const facts = {};
    for (const key of ["attack", "substitute", "bits", "category", "evidence", "precision"]) facts[key] = cells[column[key]].dataset.v;
    facts.qaa = cells[column.precision].dataset.qaa || "-";
    const text = Object.values(facts).join(" ").toLowerCase() + " " + cells[column.substitute].textContent.toLowerCase();
    return { row, cells, facts, text, fits: true, rates: data.rows[row.dataset.i], gradients: number(cells[column.gradients].dataset.v) };
  });
  const fields = [...form.elements].filter((field) => field.name);
  let view = [];
  let sort = { key: "asr", down: true };
  let scope = null;
  let marked = null;
  let all = false;

  const rate = (cell, found, whole) => {
    cell.textContent = "";
    cell.dataset.v = found ? found[0] : "";
    if (cell.style.length) cell.style.setProperty("--v", (found ? found[0] : 0) + "%");
    if (!found) { cell.append(make("span", "none", "no data")); return; }
    cell.append(make("b", "", found[0].toFixed(1)));
    if (!whole) {
      const sign = make("abbr", "", "†");
      sign.title = "some of these targets are missing or white-box for this row: the mean of the others";
      cell.append(sign);
    }
    cell.append(" ", make("span", "ci", `${found[1].toFixed(1)}–${found[2].toFixed(1)}`));
  };

  /** Show the rates and groups of another choice of targets. */
  function turn(key) {
    for (const { row, cells, rates } of rows) {
      const [asr, error, group, whole] = rates[key];
      if (scope !== null) { // the page comes with the first choice of targets
        rate(cells[column.asr], asr, whole);
        rate(cells[column.error], error, whole);
        const cell = cells[column.group];
        cell.dataset.v = group;
        cell.textContent = "";
        if (group) {
          const button = make("button", "", group);
          button.title = group;
          button.type = "button";
          button.setAttribute("aria-pressed", "false");
          cell.append(button);
        }
      }
      row.dataset.whole = whole ? "1" : "0";
    }
    marked = null;
    scope = key;
  }

  const groups = (label) => new Set(label.split(" ").filter(Boolean).flatMap((run) => {
    const [first, last = first] = run.split("–").map(toNumber);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }));

  function peers(chosen) {
    marked = marked === chosen ? null : chosen;
    const own = marked ? groups(marked.cells[column.group].dataset.v) : new Set();
    for (const each of rows) {
      const label = each.cells[column.group].dataset.v;
      const shares = marked !== null && each.facts.evidence === marked.facts.evidence && [...groups(label)].some((g) => own.has(g));
      each.row.classList.toggle("peer", shares);
      each.cells[column.group].firstElementChild?.setAttribute("aria-pressed", String(each === marked));
    }
  }

  function apply(remember) {
    const chosen = Object.fromEntries(fields.map((field) => [field.name, field.value.trim()]));
    if (chosen.scope !== scope) {
      turn(chosen.scope);
      for (const { row } of rows) row.classList.remove("peer");
    }
    const sought = (chosen.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const budget = number(chosen.budget ?? "");
    const shown = [];
    for (const each of rows) {
      const fits = Object.entries(each.facts).every(([key, fact]) => !chosen[key] || chosen[key] === fact);
      const cheap = budget === null || (each.gradients !== null && each.gradients <= budget);
      if (fits && cheap && sought.every((word) => each.text.includes(word))) shown.push(each);
    }
    rank(shown);
    const place = column[sort.key];
    view = [...shown].sort((a, b) => compare(value(a.cells[place]), value(b.cells[place]), sort.down));
    const drawn = (all ? view : view.slice(0, FIRST)).map(({ row }) => row);
    if (drawn.length !== body.rows.length || drawn.some((row, i) => row !== body.rows[i])) body.replaceChildren(...drawn);
    more.hidden = drawn.length === view.length;
    more.textContent = `Show all ${view.length} rows`;
    mark(heads, heads[place], sort.down);
    document.getElementById("count").textContent =
      (shown.length === rows.length ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`) + (shown.length ? "" : ": clear a filter to see more");
    if (remember) {
      const link = new URLSearchParams();
      for (const field of fields) if (field.value.trim() && field.value !== usual(field)) link.set(field.name, field.value.trim());
      if (sort.key !== "asr" || !sort.down) link.set("sort", (sort.down ? "-" : "") + sort.key);
      history.replaceState(null, "", link.size ? "#" + link : location.pathname + location.search);
    }
  }

  /** Rank the rows shown, tier by tier of evidence; equal rates share a rank, rows that lack a target have none. */
  function rank(shown) {
    const ranks = new Map();
    const tiers = {};
    for (const each of shown) {
      const whole = each.row.dataset.ranked === "1" && each.row.dataset.whole === "1";
      if (whole && each.rates[scope][0]) (tiers[each.facts.evidence] ??= []).push(each);
    }
    for (const tier of Object.values(tiers)) {
      tier.sort((a, b) => b.rates[scope][0][0] - a.rates[scope][0][0]);
      tier.forEach((each, place) => {
        const before = tier[place - 1];
        const same = before && before.rates[scope][0][0] === each.rates[scope][0][0];
        ranks.set(each, same ? ranks.get(before) : String(place + 1));
      });
    }
    for (const each of rows) {
      const found = ranks.get(each) ?? "";
      if (each.cells[0].textContent !== found) each.cells[0].textContent = found;
    }
  }

  function read() {
    const link = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) {
      const wanted = link.get(field.name) ?? usual(field);
      field.value = field.type === "number" && number(wanted) === null ? "" : wanted;
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = usual(field);
    }
    const wanted = link.get("sort") ?? "-asr";
    const key = wanted.replace(/^-/, "");
    sort = Object.hasOwn(column, key) && key !== "undefined" ? { key, down: wanted.startsWith("-") } : { key: "asr", down: true };
    apply(false);
  }

  function csv() {
    const names = heads.slice(1).map((head) => head.dataset.key);
    const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : /^[=+@\t]/.test(text) ? `'${text}` : text);
    const lines = [["rank", ...names].join(",")];
    for (const { cells } of view) lines.push([...cells].map((cell) => quote(value(cell))).join(","));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "view.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  for (const head of heads) head.querySelector("button")?.addEventListener("click", () => {
    const key = head.dataset.key;
    const usually = head.classList.contains("num");
    sort = { key, down: sort.key === key ? !sort.down : usually };
    apply(true);
  });
  form.addEventListener("input", () => apply(true));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const field of fields) field.value = usual(field);
    sort = { key: "asr", down: true };
    apply(true);
  });
  body.addEventListener("click", (event) => {
    if (event.target.closest(".group button")) peers(rows.find(({ row }) => row === event.target.closest("tr")));
  });
  more.addEventListener("click", () => { all = true; apply(false); });
  document.getElementById("csv").addEventListener("click", csv);
  document.getElementById("link").addEventListener("click", (event) => copy(event.currentTarget, location.href));
  addEventListener("hashchange", read);
  read();
  performance.mark("ready");
}

const usual = (field) => (field.tagName === "SELECT" ? field.options[0].value : "");
const toNumber = (text) => [...text].reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 96, 0) - 1;

function make(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

async function copy(button, text) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

/** One image at a time, by buttons or arrow keys; without this script all stand below each other. */
function viewer(box) {
  const samples = [...box.querySelectorAll(".sample")];
  const walk = box.querySelector(".walk");
  let at = 0;
  const show = (next) => {
    at = (next + samples.length) % samples.length;
    samples.forEach((sample, place) => { sample.hidden = place !== at; });
    walk.querySelector(".at").textContent = `${at + 1} of ${samples.length}`;
  };
  walk.querySelector(".previous").addEventListener("click", () => show(at - 1));
  walk.querySelector(".next").addEventListener("click", () => show(at + 1));
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(at - 1);
    if (event.key === "ArrowRight") show(at + 1);
  });
  walk.hidden = false;
  show(0);
}

function theme(button) {
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `${button.textContent} theme`); };
  button.hidden = false;
  name();
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* not kept */ }
    name();
  });
}

theme(document.getElementById("theme"));
document.querySelectorAll("table.sortable").forEach(plain);
document.querySelectorAll("#board").forEach(board);
document.querySelectorAll(".viewer").forEach(viewer);
document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", () => copy(button, button.dataset.copy)));
