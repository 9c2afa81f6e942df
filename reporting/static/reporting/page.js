/* Small comforts: buttons that copy, menus that close. Pages work without. */
(() => {
  "use strict";
  document.querySelectorAll("[data-copy]").forEach((button) => { button.hidden = false; });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const told = (word) => { const before = button.lastChild.textContent; button.lastChild.textContent = word; setTimeout(() => { button.lastChild.textContent = before; }, 1500); };
    const select = () => { const range = document.createRange(); range.selectNodeContents(source); getSelection().removeAllRanges(); getSelection().addRange(range); told("Selected"); };
    if (navigator.clipboard) navigator.clipboard.writeText(source.textContent).then(() => told("Copied"), select); else select();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
  });
})();
