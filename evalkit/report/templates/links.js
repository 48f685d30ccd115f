// -- folded parts are put in when they open; links into closed ones open them; print opens what belongs on paper
for (const details of all("details[data-later]")) {
  const fill = () => {
    if (!details.open || !data.folds[details.id]) return;
    const made = document.createElement("template");
    made.innerHTML = data.folds[details.id];
    delete data.folds[details.id];
    details.querySelector("p.gone").replaceWith(made.content);
    tell("inserted", details);
  };
  details.addEventListener("toggle", fill);
}
function openTarget() {
  const target = document.getElementById(anchor);
  if (anchor.startsWith("cell-")) reveal(anchor.slice(5));
  else if (target) { if (target.tagName === "DETAILS") target.open = true; target.scrollIntoView(); }
}
function restore() { tell("restored"); showRows(); openTarget(); }
addEventListener("hashchange", () => {
  const before = new Map(state);
  readState();
  if (state.size === 0 && before.size) { // a link within the page: what is set stays
    before.forEach((value, name) => state.set(name, value));
    writeState();
    openTarget();
  } else restore();
});
addEventListener("beforeprint", () => all("details.print").forEach((d) => { d.open = true; }));
restore();
