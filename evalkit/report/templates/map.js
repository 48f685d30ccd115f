// -- the map of features, drawn when it comes into view; and the shares of the reference's modes beside it
if (data.map && $("map-view")) {
  const svgElement = (name, attributes) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    return one;
  };
  const dots = ({ x, y }, attributes) => svgElement("path", { d: x.map((at, i) => `M${at} ${y[i]}h0`).join(""), fill: "none", ...attributes });
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const [width, height] = data.map.size;
  let drawn = false;
  let rings = [];

  function ringsOf(key, { x, y, pictures }) {
    return pictures.map(([place, index]) => ({ card: cards.indexOf(index), index, x: x[place], y: y[place] }))
      .filter(({ card }) => card >= 0 && pictureOf(key, card))
      .sort((a, b) => a.x - b.x || a.y - b.y)
      .map(({ card, index, x: cx, y: cy }, number) => {
        const ring = svgElement("circle", { cx, cy, r: 10, class: "ring", role: "button", tabindex: number ? -1 : 0, "aria-label": `${key}, sample ${index}`, "data-t": `sample ${index}` });
        ring.addEventListener("click", () => openBox(key, card, "one"));
        return ring;
      });
  }

  function drawPlot(key) {
    const cell = data.map.cells[key];
    rings = ringsOf(key, cell);
    const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Map of ${key} ${data.names[key]} and the reference` });
    if ($("map-reference").checked) svg.append(dots(data.map.reference, { class: "of-reference" }));
    svg.append(dots(cell, { class: "of-cell" }), ...rings);
    $("map-plot").replaceChildren(svg);
  }

  function drawModes(key) {
    const { shares, missing } = data.map.cells[key];
    const most = Math.max(...data.map.shares, ...shares.map(([, , high]) => high), 0.01);
    const part = (name, from, to) => {
      const one = document.createElement("span");
      one.className = name;
      one.style.left = `${100 * from / most}%`;
      one.style.width = `${100 * (to - from) / most}%`;
      return one;
    };
    [...($("map-modes")?.tBodies[0].rows || [])].forEach((row, i) => {
      const [share, low, high] = shares[i] || [0, 0, 0];
      const lacking = missing.includes(i);
      row.classList.toggle("missing", lacking);
      row.querySelector(".bar").replaceChildren(part("fill", 0, share), part("outline", 0, data.map.shares[i]), part("whisker", low, high));
      row.querySelector(".share").textContent = `${percent(share)}${lacking ? " missing" : ""}`;
      row.querySelector(".share").title = `95 % interval ${percent(low)} to ${percent(high)}`;
    });
    $("map-said").textContent = missing.length ? `${missing.length} of ${shares.length} modes (nearly) missing` : "";
  }

  function draw() {
    const key = $("map-cell").value;
    drawPlot(key);
    drawModes(key);
  }
  function begin() {
    if (drawn) return;
    drawn = true;
    const keys = Object.keys(data.map.cells);
    $("map-cell").replaceChildren(...keys.map((key) => new Option(`${key} ${data.names[key]}`, key)));
    choosePlace();
    draw();
  }
  function choosePlace() {
    const keys = Object.keys(data.map.cells);
    const asked = state.get("map");
    $("map-cell").value = keys.includes(asked) ? asked : keys.find((key) => data.map.cells[key].missing.length) || keys[0];
  }

  $("map-view").hidden = false;
  $("map-form").addEventListener("submit", (event) => event.preventDefault());
  $("map-cell").addEventListener("change", () => { keep("map", $("map-cell").value); draw(); });
  $("map-reference").addEventListener("change", draw);
  $("map-plot").addEventListener("keydown", (event) => {
    const at = rings.indexOf(event.target);
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.target.dispatchEvent(new MouseEvent("click", { bubbles: true })); return; }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = rings[(at + step + rings.length) % rings.length];
    rings[at].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); begin(); }
  }, { rootMargin: "300px" }).observe($("map-view"));
  listeners.restored.push(() => { if (drawn) { choosePlace(); draw(); } });
}
