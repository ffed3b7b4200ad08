"use strict";
(() => {
  const charts = [...document.querySelectorAll(".plot")];
  const drawn = new Set();
  const options = {
    displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"],
    doubleClick: false, doubleClickDelay: 500,  // showAll is called instead
  };

  // The library is packed. It is unpacked when the first chart comes into sight.
  let library = null;
  function loadLibrary() {
    library ||= (async () => {
      const packed = document.getElementById("library").textContent;
      const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const script = document.createElement("script");
      script.textContent = await new Response(stream).text();
      document.head.append(script);
      return window.Plotly;
    })();
    return library;
  }

  function figureOf(plot) {
    plot.figure ||= JSON.parse(plot.querySelector("script").textContent);
    return plot.figure;
  }

  // Plotly wants colours as they are, so the page's are looked up.
  function themed() {
    const body = getComputedStyle(document.body);
    const rule = getComputedStyle(document.querySelector("section")).borderTopColor;
    const paper = getComputedStyle(document.querySelector("section")).backgroundColor;
    const soft = getComputedStyle(document.querySelector(".soft")).color;
    const axis = { color: soft, gridcolor: rule, zerolinecolor: rule, linecolor: rule, automargin: true };
    return { body, rule, paper, soft, axis };
  }

  function layoutOf(plot) {
    const { data } = figureOf(plot);
    const layout = structuredClone(figureOf(plot).layout);  // Plotly writes into the ranges
    const { body, rule, paper, soft, axis } = themed();
    const bars = data[0].type === "bar";
    return {
      ...layout,
      paper_bgcolor: paper, plot_bgcolor: paper, showlegend: false, bargap: 0.25,
      uirevision: "kept",  // a new theme keeps the zoom
      font: { family: body.fontFamily, size: 12, color: soft },
      margin: { l: 46, r: 12, t: 8, b: 28 },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: { bgcolor: paper, bordercolor: rule, font: { color: body.color, size: 12 }, namelength: 40 },
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis, fixedrange: bars },
      shapes: (layout.shapes || []).map((s) => ({ ...s, line: { ...s.line, color: soft } })),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: body.color },
    };
  }

  function tracesOf(plot) {
    return figureOf(plot).data.map((trace) => ({ ...trace, visible: !plot.off?.has(trace.meta) }));
  }

  async function draw(plot) {
    const plotly = await loadLibrary();
    await plotly.react(plot, tracesOf(plot), layoutOf(plot), options);
    if (!drawn.has(plot)) plot.on("plotly_doubleclick", () => showAll(plot));
    drawn.add(plot);
    plot.dataset.drawn = "yes";
  }

  if (!("DecompressionStream" in window)) {
    document.getElementById("trouble").hidden = charts.length === 0;
  } else {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        seen.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "300px" });
    charts.forEach((plot) => seen.observe(plot));
    addEventListener("beforeprint", () => charts.filter((p) => p.offsetParent).forEach(draw));
  }

  // A legend serves its own chart and those of its section that have none.
  function servedBy(legend) {
    const own = legend.closest("figure")?.querySelector(".plot");
    const section = legend.closest("section");
    const others = charts.filter((p) => section?.contains(p) && !p.closest("figure").querySelector(".legend"));
    return own ? [own, ...others] : others;
  }
  for (const key of document.querySelectorAll(".key")) {
    key.addEventListener("click", () => {
      const off = key.getAttribute("aria-pressed") === "true";
      key.setAttribute("aria-pressed", String(!off));
      for (const plot of servedBy(key.closest(".legend"))) {
        plot.off ||= new Set();
        off ? plot.off.add(key.dataset.line) : plot.off.delete(key.dataset.line);
        if (drawn.has(plot)) {
          const visible = figureOf(plot).data.map((trace) => !plot.off.has(trace.meta));
          window.Plotly.restyle(plot, { visible });
        }
      }
    });
  }

  // Keyboard: walk along the points of all lines, zoom, and see everything again.
  function positions(plot) {
    const bars = figureOf(plot).data[0].type === "bar";
    const shown = figureOf(plot).data.filter((t) => !plot.off?.has(t.meta));
    return { bars, shown, all: [...new Set(shown.flatMap((t) => (bars ? t.y : t.x)))].sort((a, b) => a - b) };
  }
  function walk(plot, step) {
    const { bars, shown, all } = positions(plot);
    if (!all.length) return;
    plot.at = Math.min(Math.max((plot.at ?? (step > 0 ? -1 : all.length)) + step, 0), all.length - 1);
    const at = all[plot.at];
    window.Plotly.Fx.hover(plot, bars ? { yval: at } : { xval: at });
    const row = (t) => (bars ? t.y : t.x).indexOf(at);
    const values = shown.filter((t) => row(t) >= 0).map((t) => `${t.meta} ${(bars ? t.x : t.y)[row(t)] ?? "–"}`);
    const where = bars ? shown[0].customdata[at] : `step ${at}`;
    plot.closest("figure").querySelector("output").textContent = `${where}: ${values.join(", ")}`;
  }
  function zoom(plot, factor) {
    const [low, high] = plot.layout.xaxis.range;
    const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
    window.Plotly.relayout(plot, { "xaxis.range": [middle - half, middle + half] });
  }
  function showAll(plot) {
    const { xaxis, yaxis } = figureOf(plot).layout;
    window.Plotly.relayout(plot, { "xaxis.range": [...xaxis.range], "yaxis.range": [...yaxis.range] });
  }
  const actions = {
    ArrowRight: (p) => walk(p, 1), ArrowDown: (p) => walk(p, 1),
    ArrowLeft: (p) => walk(p, -1), ArrowUp: (p) => walk(p, -1),
    "+": (p) => zoom(p, 0.5), "=": (p) => zoom(p, 0.5), "-": (p) => zoom(p, 2), 0: showAll,
  };
  for (const plot of charts) {
    plot.addEventListener("keydown", (event) => {
      const action = actions[event.key];
      if (event.target !== plot || !action || !drawn.has(plot) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      action(plot);
    });
  }

  // Each chart's numbers as a table, made when it is opened.
  function numbersOf(plot) {
    const { bars, all } = positions({ figure: figureOf(plot) });
    const data = figureOf(plot).data;
    const table = document.createElement("table");
    const cell = (row, kind, words) => row.appendChild(document.createElement(kind)).append(words);
    const head = table.createTHead().insertRow();
    cell(head, "th", bars ? "" : "step");
    data.forEach((trace) => cell(head, "th", trace.meta));
    const body = table.createTBody();
    for (const at of all) {
      const row = body.insertRow();
      cell(row, "th", String(bars ? data[0].customdata[at] : at));
      for (const trace of data) {
        const index = (bars ? trace.y : trace.x).indexOf(at);
        cell(row, "td", String((index >= 0 ? (bars ? trace.x : trace.y)[index] : null) ?? "–"));
      }
    }
    return table;
  }
  for (const fold of document.querySelectorAll(".numbers")) {
    fold.addEventListener("toggle", () => {
      if (!fold.open || fold.querySelector("table")) return;
      const box = fold.appendChild(document.createElement("div"));
      box.className = "scroll tall";
      box.tabIndex = 0;
      box.append(numbersOf(fold.closest("figure").querySelector(".plot")));
    });
  }

  // Light or dark: as the system has it, until the button says otherwise.
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => drawn.forEach(draw);
  const isDark = () => (root.style.colorScheme || (dark.matches ? "dark" : "light")) === "dark";
  const name = () => { document.getElementById("theme").textContent = isDark() ? "Light page" : "Dark page"; };
  function setTheme(scheme) {
    root.style.colorScheme = scheme;
    root.dataset.theme = scheme;
    name();
    redraw();
  }
  // A file's storage may be closed.
  const stored = (act) => { try { return act(localStorage); } catch { return null; } };
  const before = stored((s) => s.getItem("ssod-report-theme"));
  document.getElementById("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    stored((s) => s.setItem("ssod-report-theme", root.dataset.theme));
  });
  before === "light" || before === "dark" ? setTheme(before) : name();
  dark.addEventListener("change", () => { name(); redraw(); });
})();
