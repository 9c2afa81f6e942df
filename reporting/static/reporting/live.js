/* Keeps pages true: hears which topics changed, and asks for the parts that show them. Without it every page still works.

   States on <html data-link>: live, lost (data are stale), polling (no socket, asked every 10 s), ended (log in again). */
(() => {
  "use strict";
  const BEAT = 20000, QUIET = 2 * BEAT + 5000, GAP = 2000, POLL = 10000, LONGEST_WAIT = 30000, REFRESH = 30000, SAY_GAP = 5000;
  const root = document.documentElement;
  const parts = () => Array.from(document.querySelectorAll("[data-topic]"));
  if (root.dataset.link === "none" || !parts().length || !window.htmx) return;

  const asked = new Map();   // topic -> when it was last asked for
  const waiting = new Map(); // topic -> timer
  const missed = new Set();  // topics that changed while nobody looked
  let socket = null, failures = 0, heard = 0, retry = 0, said = "", saidAt = 0, saying = 0;

  const clock = (date) => date.toTimeString().slice(0, 8);
  let asOf = clock(new Date());

  function state(name) {
    if (root.dataset.link === name) return;
    const before = root.dataset.link;
    root.dataset.link = name;
    const words = { live: "Live", lost: "Reconnecting", polling: "Polling", ended: "Logged out" };
    const pill = document.getElementById("link-state");
    pill.hidden = false;
    pill.textContent = words[name];
    stale();
    if (name === "lost") say("Live updates are interrupted.");
    if (name === "live" && before === "lost") say("Live updates are back.");
  }

  function stale() {
    const name = root.dataset.link, banner = document.getElementById("stale");
    banner.hidden = name !== "lost" && name !== "ended";
    document.getElementById("stale-text").textContent = name === "ended"
      ? "Your session has ended. Log in again to go on; what you see is as of " + asOf + "."
      : "Live updates are interrupted. What you see is as of " + asOf + ".";
  }

  function say(text) {
    if (text === said) return;
    clearTimeout(saying);
    saying = setTimeout(() => {
      said = text; saidAt = Date.now();
      document.getElementById("announcer").textContent = text;
    }, Math.max(0, saidAt + SAY_GAP - Date.now()));
  }

  // -- parts

  const typing = (part) => {
    const at = document.activeElement;
    return at && part.contains(at) && at.matches("input, textarea, select");
  };

  function ask(topic) {
    if (document.hidden) { missed.add(topic); return; }
    if (waiting.has(topic)) return;
    const delay = Math.max(0, (asked.get(topic) || 0) + GAP - Date.now());
    waiting.set(topic, setTimeout(() => {
      waiting.delete(topic);
      asked.set(topic, Date.now());
      for (const part of parts()) {
        if (part.dataset.topic !== topic) continue;
        if (typing(part)) missed.add(topic); else window.htmx.trigger(part, "live");
      }
    }, delay));
  }

  const askAll = () => new Set(parts().map((part) => part.dataset.topic)).forEach(ask);

  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target, answer = event.detail.xhr, tag = answer.getResponseHeader("ETag");
    if (!part.dataset || !part.dataset.topic) return;
    if (answer.status === 401) { state("ended"); return; }
    if (answer.status !== 200) return;
    if (tag && tag === part.dataset.tag) { event.detail.shouldSwap = false; return; }
    part.dataset.tag = tag || "";
    part.unfolded = Array.from(part.querySelectorAll("details[open][id]"), (one) => one.id);
    part.ticked = Array.from(part.querySelectorAll("input[type=checkbox][id]:checked"), (one) => one.id);
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    const part = event.detail.target;
    (part.unfolded || []).forEach((id) => { const one = document.getElementById(id); if (one) one.open = true; });
    (part.ticked || []).forEach((id) => { const one = document.getElementById(id); if (one) one.checked = true; });
    const words = part.querySelector("[data-say]");
    if (words) say(words.textContent.trim());
    document.dispatchEvent(new CustomEvent("part:shown", { detail: part }));
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    const part = event.detail.target;
    if (!part.dataset || !part.dataset.topic || !event.detail.successful) return;
    asOf = clock(new Date());
    part.dataset.asof = asOf;
    if (root.dataset.link === "lost" && failures >= 3) state("polling");
  });
  document.body.addEventListener("htmx:sendError", () => { if (root.dataset.link === "polling") state("lost"); });
  document.addEventListener("focusout", () => setTimeout(catchUp, 0));

  function catchUp() {
    const topics = Array.from(missed);
    missed.clear();
    topics.forEach(ask);
  }

  // -- socket

  function connect() {
    clearTimeout(retry);
    const query = new URLSearchParams();
    new Set(parts().map((part) => part.dataset.topic)).forEach((topic) => query.append("topic", topic));
    const own = new WebSocket(location.origin.replace(/^http/, "ws") + "/live/?" + query);
    socket = own;
    heard = Date.now();
    own.onmessage = (event) => {
      heard = Date.now();
      const signal = JSON.parse(event.data);
      if (signal.kind === "hello") { failures = 0; state("live"); askAll(); }
      else if (signal.kind !== "beat") ask(signal.id ? signal.kind + ":" + signal.id : signal.kind);
    };
    own.onclose = (event) => {
      if (socket !== own) return;
      socket = null;
      if (event.code === 4401) { state("ended"); return; }
      failures = event.code === 4403 ? Math.max(failures, 3) : failures + 1;
      if (root.dataset.link !== "polling") state("lost");
      const wait = Math.min(LONGEST_WAIT, 500 * 2 ** failures) * (0.5 + Math.random() / 2);
      retry = setTimeout(connect, event.code === 4403 ? LONGEST_WAIT : wait);
    };
  }

  setInterval(() => {
    if (socket && heard && Date.now() - heard > QUIET) socket.close(); // a dead line that nobody closed
    if (!socket && failures >= 3 && root.dataset.link !== "ended" && !document.hidden) askAll();
  }, POLL);
  setInterval(() => { if (root.dataset.link === "live" && !document.hidden) askAll(); }, REFRESH); // what only time changes
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || root.dataset.link === "ended") return;
    if (!socket) connect();
    askAll();
    missed.clear();
  });
  window.addEventListener("online", () => { if (!socket) connect(); });
  window.addEventListener("pagehide", () => { const own = socket; socket = null; if (own) own.close(); });
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  connect();
})();
