"use strict";
// Links to the parts of a view, which stay at the top and mark the part that is read.
const tabs = (() => {
  const { h } = dom;

  // parts: [title, element with an id]; path: address of the view; at(): the id in the query.
  function bar(parts, { path, signal, setQuery }) {
    const links = new Map(
      parts.map(([title, { id }]) => {
        const click = (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab or window
          event.preventDefault();
          setQuery({ at: id });
          go(id);
        };
        return [id, h("a", { href: `${path}?at=${id}`, onclick: click }, title)];
      }),
    );
    const element = h("nav", { class: "tabs", "aria-label": "Parts of this run" }, [...links.values()]);
    let last = null; // the id in the query that was gone to

    function mark(id) {
      for (const [own, link] of links)
        own === id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
      const link = links.get(id);
      element.scrollLeft = link.offsetLeft - (element.clientWidth - link.offsetWidth) / 2;
    }

    function go(id) {
      last = id;
      const target = parts.find(([, { id: own }]) => own === id)?.[1];
      if (!target) return;
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
      target.scrollIntoView();
    }

    const seen = new IntersectionObserver(
      (entries) => {
        const entry = entries.findLast((each) => each.isIntersecting);
        if (entry) mark(entry.target.id);
        else if (parts[0][1].getBoundingClientRect().top > 0.2 * innerHeight) mark(parts[0][1].id);
      },
      { rootMargin: "-15% 0px -80% 0px" },
    );
    for (const [, target] of parts) seen.observe(target);
    signal.addEventListener("abort", () => seen.disconnect());

    return {
      element,
      go,
      // Goes where the query says, unless that was done.
      follow: () => {
        const id = setQuery().get("at");
        if (id !== last && id !== null) go(id);
        last = id;
      },
    };
  }

  return { bar };
})();
