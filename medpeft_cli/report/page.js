"use strict";
// Text from data only ever becomes text nodes and attributes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const overview = document.getElementById("overview");
const view = document.getElementById("view");

function make(tag, attributes, ...children) {
  const svg = ["svg", "path", "circle", "line", "text"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// sorting and filtering

const UNITS = { K: 1e3, M: 1e6, B: 1e9 };

const RANGE = /^\s*<?\s*([-+−]?[\d,]*\.?\d+)([KMB]?)(?:–([\d,]*\.?\d+)([KMB]?))?/; // 0.81, 59.3K, < 0.001, 3.8–7.2K, 988–1.20K

// The value of a cell; null sorts last. Lists of runs state it, and else are text; tables are read as they are printed.
function number(cell) {
  if (cell.dataset.v !== undefined) return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  const found = cell.closest("table.lines") ? RANGE.exec(cell.textContent) : null;
  if (!found) return null;
  const [low, high] = [found[1], found[3] || ""].map((digits) => Number(digits.replace(/,/g, "").replace("−", "-")));
  const unit = found[2] || (found[3] && low <= high ? found[4] : ""); // one unit for both ends
  return low * (UNITS[unit] || 1);
}

function sort(table, column, direction) {
  const rows = [...table.tBodies[0].rows];
  if (!table.original) table.original = [...rows];
  const numbers = rows.map((row) => number(row.cells[column]));
  const numeric = column > 0 && numbers.some((value) => value !== null);
  const keys = new Map(rows.map((row, i) => [row, numeric ? numbers[i] : row.cells[column].textContent]));
  const compare = (a, b) => {
    const x = keys.get(a), y = keys.get(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return direction * (numeric ? x - y : x.localeCompare(y));
  };
  table.tBodies[0].append(...(direction ? rows.sort(compare) : table.original));
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (i === column && direction) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const first = head.textContent.includes("↑") ? -1 : 1;
    const button = make("button", { type: "button", title: "Sort" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const now = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")] || 0;
      sort(table, column, now === 0 ? first : now === first ? -first : 0);
    });
  });
}

function matches(row, words) {
  const text = row.textContent.toLowerCase();
  return words.every((word) => text.includes(word));
}

const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);

function makeFilters(table) {
  const rows = [...table.tBodies[0].rows];
  const input = make("input", { type: "search", placeholder: "Filter runs", "aria-label": "Filter runs by words" });
  const count = make("span", { "aria-live": "polite" });
  const selects = table.dataset.choices.split(" ").map(Number).map((column) => {
    const name = table.tHead.rows[0].cells[column].textContent;
    const values = [...new Set(rows.map((row) => row.cells[column].textContent))].sort();
    if (values.length < 2) return null;
    const options = [make("option", { value: "" }, `${name}: all`)];
    const select = make("select", { "aria-label": name }, options, values.map((value, i) => make("option", { value: String(i) }, value)));
    return { column, select, values };
  }).filter(Boolean);
  const apply = () => {
    const words = wordsOf(input);
    let shown = 0;
    for (const row of rows) {
      const chosen = selects.every(({ column, select, values }) => select.value === "" || row.cells[column].textContent === values[select.value]);
      row.hidden = !(chosen && matches(row, words));
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${rows.length} runs` : `${shown} of ${rows.length} runs`;
  };
  input.addEventListener("input", apply);
  selects.forEach(({ select }) => select.addEventListener("change", apply));
  table.closest(".panel").before(make("div", { class: "tools" }, input, selects.map(({ select }) => select), count));
  apply();
}

function makeLineFilter(input) {
  const part = input.closest("section");
  input.parentElement.hidden = false;
  input.addEventListener("input", () => {
    const words = wordsOf(input);
    part.querySelectorAll("table.lines tbody tr").forEach((row) => { row.hidden = !matches(row, words); });
  });
}

// the view of a run

const shown = (value, digits) => value === null || value === undefined ? "–" : value.toFixed(digits);

function interval(estimate, digits) {
  if (!estimate) return ["–", ""];
  const [value, low, high] = estimate;
  return [shown(value, digits), low === null || low === undefined ? "" : `[${shown(low, digits)}, ${shown(high, digits)}]`];
}

const cells = (tag, values) => values.map((value) => make(tag, tag === "th" ? { scope: "col" } : {}, value));
const table = (heads, rows, kind) => make("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": heads.join(", ") },
  make("table", { class: kind || "" }, make("thead", {}, make("tr", {}, cells("th", heads))), make("tbody", {}, rows.map((row) => make("tr", {}, cells("td", row))))));

const pairs = (values) => make("div", { class: "panel" },
  make("dl", {}, Object.entries(values).map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));

function metricsOf(run) {
  const names = Object.keys((run.test || run.val).overall);
  const rows = names.map((name) => {
    const [title, arrow, digits] = Object.hasOwn(data.metrics, name) ? data.metrics[name] : [name, "", 4];
    const both = [run.test, run.val].map((scores) => (scores ? interval(scores.overall[name], digits) : null)).filter(Boolean);
    return [`${title} ${arrow}`, ...both.flat()];
  });
  const heads = ["Metric"];
  if (run.test) heads.push(`Test, ${run.test.n} images`, "interval");
  if (run.val) heads.push(`Validation, ${run.val.n} images`, "interval");
  return table(heads, rows);
}

function classesOf(scores) {
  const names = Object.keys(scores.per_class[0]).filter((name) => name !== "support");
  return table(["Class", "Images", ...names.flatMap((name) => [({ f1: "F1", auroc: "AUROC" })[name] || name.replace("_", " "), "interval"])], scores.classes.map((name, i) => {
    const values = scores.per_class[i];
    return [name, String(values.support ?? "–"), ...names.flatMap((metric) => interval(values[metric], 3))];
  }));
}

function matrixOf(scores) {
  if (scores.confused) {
    return table(["True class", "taken for", "images"], scores.confused.map(([count, i, j]) => [scores.classes[i], scores.classes[j], String(count)]));
  }
  const rows = scores.matrix.map((line, i) => {
    const total = line.reduce((sum, count) => sum + count, 0) || 1;
    const counts = line.map((count) => {
      const cell = make("td", {}, String(count));
      cell.style.background = `color-mix(in srgb, var(--bar) ${Math.round(60 * count / total)}%, transparent)`;
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row" }, scores.classes[i]), counts);
  });
  return make("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" }, make("table", { class: "matrix narrow" },
    make("thead", {}, make("tr", {}, make("th", {}, "true ↓ predicted →"), cells("th", scores.classes))), make("tbody", {}, rows)));
}

const WIDTH = 420, HEIGHT = 200, LEFT = 44, BOTTOM = 24;

function chart(title, unit, x, series) {
  const points = series.flatMap(([, values]) => values.filter((value) => value !== null));
  if (points.length < 2 || x.length < 2) return null;
  let low = Math.min(...points), high = Math.max(...points);
  if (low === high) { low -= 0.5; high += 0.5; }
  const right = x[x.length - 1];
  const across = (value) => LEFT + (WIDTH - LEFT - 8) * (value - x[0]) / (right - x[0] || 1);
  const up = (value) => 8 + (HEIGHT - BOTTOM - 8) * (high - value) / (high - low);
  const lines = series.map(([, values], i) => {
    const path = values.map((value, k) => (value === null ? "" : `${across(x[k]).toFixed(1)},${up(value).toFixed(1)}`)).filter(Boolean);
    return make("path", { class: i ? "two-line" : "one", d: `M${path.join("L")}` });
  });
  const key = series.map(([name], i) => [make("path", { class: i ? "two-line" : "one", d: `M${LEFT + 8 + i * 130},${HEIGHT + 8}h22` }), make("text", { x: LEFT + 36 + i * 130, y: HEIGHT + 12 }, name)]);
  return make("div", {}, make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 20}`, role: "img", "aria-label": `${title} from ${low} to ${high}` },
    make("path", { class: "axis", d: `M${LEFT},8V${HEIGHT - BOTTOM}H${WIDTH - 8}` }),
    [low, (low + high) / 2, high].map((value) => make("text", { x: LEFT - 6, y: up(value) + 4, "text-anchor": "end" }, value.toPrecision(3))),
    make("text", { x: LEFT, y: HEIGHT - 8 }, String(x[0])), make("text", { x: WIDTH - 8, y: HEIGHT - 8, "text-anchor": "end" }, `${right} ${unit}s`), lines, key));
}

function curvesOf({ unit, x, "train loss": training, val }) {
  const { loss, ...others } = val;
  const first = [["training loss", training], ...(loss ? [["validation loss", loss]] : [])].filter(([, values]) => values.some((value) => value !== null));
  const charts = [chart("loss", unit, x, first), ...Object.entries(others).map(([name, values]) => {
    const title = `validation ${Object.hasOwn(data.metrics, name) ? data.metrics[name][0] : name}`;
    return chart(title, unit, x, [[title, values]]);
  })].filter(Boolean);
  return charts.length ? make("div", { class: "two" }, charts) : null;
}

function reliabilityOf(bins) {
  const total = bins.reduce((sum, bin) => sum + bin[2], 0);
  const side = 190, at = (value) => 30 + side * value, up = (value) => 5 + side * (1 - value);
  return make("svg", { viewBox: "0 0 240 225", style: "max-width: 19rem", role: "img", "aria-label": "Reliability diagram: share right against confidence" },
    make("path", { class: "axis", d: `M30,5V${5 + side}H${30 + side}M30,${5 + side}L${30 + side},5` }),
    bins.map(([confidence, right, images]) => [make("line", { class: "stick", x1: at(confidence), x2: at(confidence), y1: up(confidence), y2: up(right) }),
      make("circle", { class: "dot", cx: at(confidence), cy: up(right), r: 2 + 7 * Math.sqrt(images / total) })]),
    make("text", { x: 26, y: 12, "text-anchor": "end" }, "1"), make("text", { x: 26, y: 198, "text-anchor": "end" }, "0"), make("text", { x: 125, y: 215, "text-anchor": "middle" }, "confidence → , share right ↑"));
}

function again(run) {
  return [run.command ? make("pre", {}, run.command) : null,
    make("p", { class: "soft" }, "or, with every field as it was: "), make("pre", {}, `medpeft finetune ${quoted(`${run.folder}/recipe.yaml`)}`)];
}

const quoted = (path) => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);
const section = (title, ...content) => (content.flat().some(Boolean) ? [make("h3", {}, title), ...content.flat()] : []);

function showRun(run) {
  const scores = run.test || run.val;
  return [make("h2", { tabindex: "-1" }, run.demo ? make("span", { class: "badge" }, "DEMO") : null, run.demo ? " " : null, run.id),
    make("p", { class: "soft" }, `${run.method} · seed ${run.seed} · ${run.state}`),
    run.error ? make("pre", { class: "off" }, run.error) : null,
    section("Run it again", again(run)),
    section("Metrics", scores ? metricsOf(run) : null),
    section("Classes of the test split", run.test && run.test.classes ? classesOf(run.test) : null),
    section("Confusion on the test split", run.test && run.test.classes && (run.test.matrix || run.test.confused) ? matrixOf(run.test) : null),
    section("Reliability on the test split", run.bins.length ? reliabilityOf(run.bins) : null),
    section("Curves", curvesOf(run.curve)),
    section("Samples", run.samples ? make("img", { src: run.samples, alt: "Generated pictures of this run" }) : null),
    section("Counts and cost", pairs(run.counts)),
    section("Recipe", pairs({ seed: String(run.seed), ...data.recipes[run.recipe] })),
    section("How the test split was scored", run.test ? pairs(data.protocols[run.test.protocol]) : null),
    section("Environment", pairs(data.environments[run.environment]))];
}

function showCell(names) {
  const runs = names.filter((name) => Object.hasOwn(data.runs, name)).map((name) => [name, data.runs[name]]);
  return [make("h2", { tabindex: "-1" }, `${runs.length} runs of ${runs[0][1].method}`),
    runs.map(([name, run]) => [make("h3", {}, make("a", { href: `#run-${name}` }, run.id)),
      run.error ? make("p", { class: "off" }, run.error.split("\n")[0]) : null,
      run.test ? make("p", {}, Object.entries(run.test.overall).slice(0, 12).map(([metric, estimate]) => {
        const [title, , digits] = Object.hasOwn(data.metrics, metric) ? data.metrics[metric] : [metric, "", 4];
        return `${title} ${shown(estimate[0], digits)}`;
      }).join(" · ")) : null,
      run.command ? make("pre", {}, run.command) : null])];
}

// which view

let place = 0, from = null; // where the reader was in the overview

const headline = (part) => part.querySelector("h1, h2");

function route() {
  const found = /^#(run|cell)-([A-Za-z0-9.]+)$/.exec(location.hash);
  const names = found ? found[2].split(".").filter((name) => Object.hasOwn(data.runs, name)) : [];
  if (!names.length) {
    const back = overview.hidden;
    overview.hidden = false;
    view.hidden = true;
    document.title = "medpeft report";
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && overview.contains(target)) target.scrollIntoView();
    else if (back) {
      scrollTo(0, place);
      (from || headline(overview)).focus({ preventScroll: true });
    }
    return;
  }
  if (!overview.hidden) {
    place = scrollY;
    from = document.activeElement === document.body ? null : document.activeElement;
  }
  const back = make("p", { class: "back" }, make("a", { href: "#" }, "← All results"));
  view.replaceChildren(back, ...(found[1] === "run" ? showRun(data.runs[names[0]]) : showCell(names)).flat(3).filter(Boolean));
  overview.hidden = true;
  view.hidden = false;
  document.title = headline(view).textContent;
  scrollTo(0, 0);
  headline(view).focus({ preventScroll: true });
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  headline(overview.hidden ? view : overview).focus();
});

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("table[data-choices]").forEach(makeFilters);
document.querySelectorAll("input[data-filter-lines]").forEach(makeLineFilter);
addEventListener("hashchange", route);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
route();
