"use strict";
// Live pages: when the server says that something changed, fetch this page again and carry the differences over, so
// that focus, scroll position and colour transitions survive. Without this script every page works, only not by itself.
(() => {
  const main = document.querySelector("main[data-live]");
  const link = document.getElementById("link");
  if (!main || !window.EventSource) return;
  let busy = false, again = false, stale = false;

  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

  function carry(from, to) {
    if (to.nodeType === Node.TEXT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    if (to.nodeType !== Node.ELEMENT_NODE) return;
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name); // `open`: somebody unfolded it
    }
    for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const wanted = [...to.childNodes];
    wanted.forEach((node, index) => {
      const here = from.childNodes[index];
      if (!here) from.appendChild(document.importNode(node, true));
      else if (same(here, node)) carry(here, node);
      else from.replaceChild(document.importNode(node, true), here);
    });
    while (from.childNodes.length > wanted.length) from.removeChild(from.lastChild);
  }

  async function refresh() {
    if (document.hidden) { stale = true; return; }
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) { location.reload(); return; }
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("main[data-live]");
      if (fresh) { carry(main, fresh); document.title = page.title; }
    } catch { /* the event stream says when the server is back */ } finally {
      busy = false;
      if (again) { again = false; refresh(); }
    }
  }

  function say(text, tone) {
    link.hidden = false;
    link.textContent = text;
    link.dataset.tone = tone;
  }

  const events = new EventSource(main.dataset.live);
  events.addEventListener("open", () => { say("live", "on"); });
  events.addEventListener("changed", refresh);
  events.addEventListener("error", () => {
    const gaveUp = events.readyState === EventSource.CLOSED; // no stream for us: signed out, or too many followers
    say(gaveUp ? "every 30 s" : "reconnecting", "off");
    if (gaveUp) refresh();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && stale) { stale = false; refresh(); } });
  setInterval(refresh, 30000); // ages such as "2 min ago" go on without news
})();
