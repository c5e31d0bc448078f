// Keeps the page fresh: fetches it again now and then and changes what differs,
// so that focus, scroll position and what is unfolded stay. Without it the
// page is whole, and as old as its load.
"use strict";
(() => {
  const every = 10_000;
  const folds = new Set(["DETAILS"]); // whose open attribute is the reader's own

  const attributes = (from, to) => {
    for (const { name } of [...from.attributes])
      if (!to.hasAttribute(name) && !(name === "open" && folds.has(from.tagName))) from.removeAttribute(name);
    for (const { name, value } of to.attributes)
      if (from.getAttribute(name) !== value && !(name === "open" && folds.has(from.tagName))) from.setAttribute(name, value);
  };

  // morph makes the children of from those of to, keeping nodes that are alike.
  const morph = (from, to) => {
    const wanted = [...to.childNodes];
    const ids = new Set(wanted.map((n) => n.id).filter(Boolean));
    wanted.forEach((node, i) => {
      // One with an id is looked for: environments change places.
      let have = from.childNodes[i];
      if (node.id && (!have || have.id !== node.id)) {
        const moved = [...from.children].find((c) => c.id === node.id);
        if (moved) from.insertBefore(moved, have ?? null), (have = moved);
      }
      if (!have || have.nodeName !== node.nodeName || (have.id ?? "") !== (node.id ?? "")) {
        const made = document.importNode(node, true);
        if (have && !ids.has(have.id)) from.replaceChild(made, have);
        else from.insertBefore(made, have ?? null);
      }
      else if (node.nodeType !== Node.ELEMENT_NODE) {
        if (have.data !== node.data) have.data = node.data;
      } else if (!have.isEqualNode(node)) {
        attributes(have, node);
        morph(have, node);
      }
    });
    while (from.childNodes.length > wanted.length) from.lastChild.remove();
  };

  // Buttons that copy the command beside them are for those who have a script.
  document.documentElement.classList.add("scripted");
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const command = button.parentElement.querySelector(".command");
    let text = "Copied";
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch { // not allowed, or not over a connection that browsers trust
      getSelection().selectAllChildren(command);
      text = "Press Ctrl+C";
    }
    button.textContent = text;
    setTimeout(() => (button.textContent = "Copy"), 3000);
  });

  let timer, last = new Date();
  const live = (text) => { // only a change is read out
    const place = document.getElementById("live");
    if (place.textContent !== text) place.textContent = text;
  };
  const refresh = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(every) });
      if (!answer.ok) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of ["header", "main", "footer"]) {
        const fresh = page.querySelector("body > " + part), old = document.querySelector("body > " + part);
        if (fresh && old) morph(old, fresh);
      }
      document.title = page.title;
      last = new Date();
      live("");
    } catch {
      live(`no answer since ${last.toLocaleTimeString()}`);
    }
    timer = setTimeout(refresh, every);
  };
  document.addEventListener("visibilitychange", refresh);
  timer = setTimeout(refresh, every);
})();
