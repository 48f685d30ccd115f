// -- theme
const root = document.documentElement;
const themes = ["automatic", "light", "dark"];
const remembered = () => { try { return localStorage.getItem("evalkit-theme"); } catch { return null; } };
const setTheme = (name) => {
  if (name === "automatic") delete root.dataset.theme; else root.dataset.theme = name;
  $("theme").textContent = { automatic: "Auto", light: "Light", dark: "Dark" }[name];
  $("theme").setAttribute("aria-label", `Theme: ${name}`);
};
$("theme").hidden = false;
setTheme(themes.includes(remembered()) ? remembered() : "automatic");
$("theme").addEventListener("click", () => {
  const name = themes[(themes.indexOf(root.dataset.theme || "automatic") + 1) % themes.length];
  setTheme(name);
  try { localStorage.setItem("evalkit-theme", name); } catch { /* a page from a file may have no storage */ }
});
