// -- two swept axes against each other: a picture per pair of values, all other axes held, prompt by prompt
const axes = all("#filters select").map((select) => ({
  column: Number(select.dataset.col),
  name: select.closest("label").firstChild.data.trim(),
  values: [...select.options].map((option) => option.value).filter(Boolean),
}));
if ($("xyz") && list && axes.length >= 2) {
  const held = new Map();
  let promptAt = 0;
  const axisOf = (id) => axes.find((axis) => axis.column === Number($(id).value));

  function holdRest() {
    const rest = axes.filter((axis) => axis !== axisOf("xyz-x") && axis !== axisOf("xyz-y"));
    $("xyz-held").replaceChildren(...rest.flatMap((axis) => {
      if (!held.has(axis.column)) held.set(axis.column, rows[visible[0] ?? 0].values[axis.column]);
      const label = document.createElement("label");
      const select = document.createElement("select");
      select.append(...axis.values.map((value) => new Option(value, value, false, value === held.get(axis.column))));
      select.addEventListener("change", () => { held.set(axis.column, select.value); showGrid(); });
      label.append(`${axis.name} `, select);
      return [label, " "];
    }));
  }

  function cellAt(x, y, vx, vy) {
    return rows.find((row) => row.values[x.column] === vx && row.values[y.column] === vy
      && axes.every((axis) => axis === x || axis === y || row.values[axis.column] === held.get(axis.column)));
  }

  function showGrid() {
    const [x, y] = [axisOf("xyz-x"), axisOf("xyz-y")];
    const { scale } = wanted();
    const head = (text, scope) => { const th = document.createElement("th"); th.scope = scope; th.textContent = text; return th; };
    const make = (name, ...children) => { const one = document.createElement(name); one.append(...children); return one; };
    const cell = (row) => {
      const image = row && pictureOf(row.key, promptAt)?.cloneNode();
      if (!image) return make("td", "–");
      Object.assign(image.dataset, { key: row.key, card: promptAt });
      image.tabIndex = 0;
      image.setAttribute("role", "button");
      const score = scale ? scoreOf(scale, row.key, promptAt) : null;
      const words = make("div", make("b", row.key), score === null ? "" : ` ${minus(score.toPrecision(4))}`);
      return make("td", image, words);
    };
    const corner = document.createElement("td");
    corner.textContent = `${y.name} ↓  ${x.name} →`;
    const across = x === y ? [x.values[0]] : x.values;
    $("xyz-grid").replaceChildren($("xyz-grid").caption, make("thead", make("tr", corner, ...across.map((v) => head(v, "col")))),
      make("tbody", ...y.values.map((vy) => make("tr", head(vy, "row"), ...across.map((vx) => cell(cellAt(x, y, x === y ? vy : vx, vy)))))));
    $("xyz-prompt").textContent = `${cards[promptAt]}: ${data.gallery.texts[promptAt].slice(0, 60)}`;
    $("xyz-previous").disabled = promptAt === 0;
    $("xyz-next").disabled = promptAt === cards.length - 1;
  }
  const redo = () => { holdRest(); showGrid(); };
  const keepGrid = () => keep("xyz", `${$("xyz-x").value}.${$("xyz-y").value}.${promptAt}`);
  $("xyz").hidden = false;
  $("xyz-form").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["xyz-x", "xyz-y"]) $(id).addEventListener("change", () => { redo(); keepGrid(); });
  for (const [id, step] of [["xyz-previous", -1], ["xyz-next", 1]]) $(id).addEventListener("click", () => { promptAt += step; showGrid(); keepGrid(); });
  listeners.restored.push(() => {
    const [x, y, card] = (state.get("xyz") || "").split(".");
    const known = (value) => axes.some((axis) => String(axis.column) === value);
    const many = [...axes].sort((a, b) => b.values.length - a.values.length);
    $("xyz-x").value = known(x) ? x : many[0].column;
    $("xyz-y").value = known(y) ? y : many[1].column;
    promptAt = Math.min(Math.max(Number(card) || 0, 0), cards.length - 1);
    redo();
  });
}
