/* Shortcuts by single keys, listed in templates/reporting/keys.html: none while somebody types, none when they are switched off
   (<html data-keys="off">). Everything they do can be done without them. */
(() => {
  "use strict";
  const help = document.getElementById("keys"), show = document.getElementById("show-keys");
  if (!help || !show) return;
  const GO_WITHIN = 1500; // milliseconds between g and the next key
  const ROWS = "main tbody th a, main [data-row]";
  let going = 0;

  show.hidden = false;
  show.addEventListener("click", () => { document.getElementById("user-menu").open = false; help.showModal(); });
  if (document.documentElement.dataset.keys === "off") return;

  const types = (at) => at.isContentEditable || at.matches("input, textarea, select");

  function step(by) {
    const rows = Array.from(document.querySelectorAll(ROWS)).filter((row) => row.offsetParent);
    if (!rows.length) return;
    const row = document.activeElement.closest("tr, [data-row]");
    const at = rows.findIndex((one) => one === document.activeElement || (row && row.contains(one)));
    const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by));
    rows[next].focus();
    rows[next].scrollIntoView({ block: "nearest" });
  }

  function search() {
    const field = Array.from(document.querySelectorAll("main input[type=search]")).find((one) => one.offsetParent);
    if (!field) return false;
    field.focus();
    field.select();
    return true;
  }

  function nextTheme() {
    const buttons = Array.from(document.querySelectorAll(".themes button"));
    const at = buttons.findIndex((one) => one.getAttribute("aria-pressed") === "true");
    buttons[(at + 1) % buttons.length].click();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    if (help.open || types(event.target)) return;
    const went = going && Date.now() - going < GO_WITHIN;
    going = 0;
    const link = went && /^[a-z]$/.test(event.key) && document.querySelector(`.rail a[data-go="${event.key}"]`);
    if (link) link.click();
    else if (went) return;
    else if (event.key === "g") going = Date.now();
    else if (event.key === "?") help.showModal();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "t") nextTheme();
    else if (event.key !== "/" || !search()) return;
    event.preventDefault();
  });
})();
