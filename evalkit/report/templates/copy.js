// -- copying: the clipboard where there is one, else the text is shown and selected
function show(source) {
  const details = source.closest("details");
  if (details) details.open = true;
  if (source.select) { source.focus(); source.select(); } else getSelection().selectAllChildren(source);
  say("Selected: copy it with the keyboard");
}
for (const button of all("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      const label = button.textContent;
      button.textContent = "Copied";
      say("Copied");
      setTimeout(() => { button.textContent = label; }, 1500);
    } catch { show(source); }
  });
}
