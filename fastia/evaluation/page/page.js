"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const rowsOnAPage = 25;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Charts. Plotly takes texts for HTML, so names that come from files are escaped.
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const configuration = { responsive: true, displaylogo: false };
  configuration.modeBarButtons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]]; // by default one uploads the chart
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl"));

  function theme(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const colours = { "font.color": colour("--text") };
    colours["hoverlabel.bgcolor"] = colour("--panel");
    colours["hoverlabel.bordercolor"] = colour("--line");
    colours["hoverlabel.font.color"] = colour("--text");
    colours["modebar.color"] = colour("--quiet");
    colours["modebar.activecolor"] = colour("--accent");
    colours["modebar.bgcolor"] = "rgba(0,0,0,0)";
    for (const axis of ["xaxis", "yaxis"].filter((name) => name in layout)) {
      colours[`${axis}.gridcolor`] = colour("--line");
      colours[`${axis}.zerolinecolor`] = colour("--line");
      colours[`${axis}.linecolor`] = colour("--line");
    }
    return colours;
  }

  for (const [id, figure] of Object.entries(figures)) {
    if (!hasWebGL) figure.data.filter((trace) => trace.type === "scattergl").forEach((trace) => { trace.type = "scatter"; });
    Plotly.newPlot(id, figure.data, figure.layout, configuration).then(() => Plotly.relayout(id, theme(figure.layout)));
  }
  dark.addEventListener("change", () => {
    for (const [id, figure] of Object.entries(figures)) Plotly.relayout(id, theme(figure.layout));
  });

  for (const button of all("button[data-group]")) {
    button.addEventListener("click", () => {
      const { chart, group } = button.dataset;
      Plotly.restyle(chart, { visible: figures[chart].data.map((trace) => trace.meta === group) });
      for (const other of all(`button[data-chart="${chart}"]`)) other.setAttribute("aria-pressed", other === button);
    });
  }

  // Tables. What has no value stays last, whichever way a column is sorted.
  function order(a, b, descending) {
    if (a === null || b === null) return (a === null) - (b === null);
    const sign = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return descending ? -sign : sign;
  }

  function onSort(table, sort) {
    const headings = all("thead th", table);
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const before = heading.getAttribute("aria-sort"); // numbers begin with the largest
        const descending = before ? before === "ascending" : heading.className === "number";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(column, descending);
      });
    });
  }

  function cellValue(cell) {
    if (cell.className !== "number") return cell.textContent;
    const text = cell.dataset.value ?? cell.textContent;
    return Number.isNaN(Number(text)) ? null : Number(text);
  }

  for (const table of all("table.sortable")) {
    onSort(table, (column, descending) => {
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [cellValue(row.cells[column]), row]);
      rows.sort(([a], [b]) => order(a, b, descending));
      body.append(...rows.map(([, row]) => row));
    });
  }

  // Instances, in the chart and the list, as the filters leave them.
  const columns = [
    (i) => data.images[data.image[i]],
    (i) => data.classes[data.class[i]],
    (i) => data.instance[i],
    (i) => data.area[i],
    (i) => data.size[i],
    (i) => data.iou[i],
    (i) => data.classes[data.predicted[i]],
    (i) => data.share[i],
  ];
  const shown = columns.slice();
  shown[4] = (i) => data.sizes[data.size[i]];
  shown[5] = (i) => data.iou[i].toFixed(3);
  shown[7] = (i) => (100 * data.share[i]).toFixed(1);
  const list = document.getElementById("instances-table");
  const [previous, next] = all(".pages button");
  const chosen = { class: "", size: "" };
  let sorting = { column: null, descending: false };
  let members = [];
  let page = 0;

  function fillList() {
    const pages = Math.max(Math.ceil(members.length / rowsOnAPage), 1);
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = members.slice(page * rowsOnAPage, (page + 1) * rowsOnAPage).map((i) => {
      const row = document.createElement("tr");
      shown.forEach((value, column) => {
        const cell = row.insertCell();
        cell.textContent = value(i);
        cell.className = list.tHead.rows[0].cells[column].className;
      });
      return row;
    });
    list.tBodies[0].replaceChildren(...rows);
    document.querySelector(".pages span").textContent = `page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  function sortMembers() {
    const { column, descending } = sorting;
    if (column !== null) members.sort((a, b) => order(columns[column](a), columns[column](b), descending) || a - b);
    page = 0;
    fillList();
  }

  function describe(i) {
    const predicted = `${(100 * data.share[i]).toFixed(0)} % predicted as ${escape(data.classes[data.predicted[i]])}`;
    return `${escape(data.classes[data.class[i]])}, ${escape(data.images[data.image[i]])}, instance ${data.instance[i]}<br>${predicted}`;
  }

  function filter() {
    const keeps = (name, i) => chosen[name] === "" || data[name][i] === Number(chosen[name]);
    members = data.area.map((_, i) => i).filter((i) => keeps("class", i) && keeps("size", i));
    const traces = data.sizes.map((_, size) => members.filter((i) => data.size[i] === size));
    Plotly.restyle("area-chart", {
      x: traces.map((trace) => trace.map((i) => data.area[i])),
      y: traces.map((trace) => trace.map((i) => data.iou[i])),
      text: traces.map((trace) => trace.map(describe)),
    });
    for (const count of all(".count")) count.textContent = `${members.length} of ${data.area.length} instances`;
    sortMembers();
  }

  onSort(list, (column, descending) => {
    sorting = { column, descending };
    sortMembers();
  });
  for (const button of [previous, next]) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.page);
      fillList();
    });
  }
  for (const select of all("select[data-filter]")) {
    select.addEventListener("change", () => {
      chosen[select.dataset.filter] = select.value;
      for (const twin of all(`select[data-filter="${select.dataset.filter}"]`)) twin.value = select.value;
      filter();
    });
  }
  for (const select of all("select[data-filter]")) select.value = "";
  filter();

  for (const box of all("input[data-outline]")) {
    const show = () => document.getElementById("gallery").classList.toggle(`without-${box.dataset.outline}`, !box.checked);
    box.addEventListener("change", show);
    show();
  }
})();
