"use strict";
// Search, sort and filter for the examples. It only moves nodes that the page already has.
(() => {
  const element = (id) => document.getElementById(id);
  const controls = ["search", "group", "sort", "reversed"].map(element);
  const [search, group, sort, reversed] = controls;

  const cards = Array.from(document.querySelectorAll("#groups article"), (node, place) => ({
    node,
    place,
    ranks: new Map(node.dataset.groups.split(" ").map((pair) => pair.split(":"))),
    values: node.dataset.values.split(" ").map(Number),
    source: node.querySelector(".source").textContent,
    id: node.querySelector(".id").textContent,
    text: "",
  }));

  // Lower-cased at the first search: it takes a moment.
  const textOf = (card) => {
    const texts = () => Array.from(card.node.querySelectorAll(".text"), (part) => part.textContent);
    card.text ||= [card.source, card.id, ...texts()].join("\n").toLowerCase();
    return card.text;
  };

  const isNumber = () => /^\d+$/.test(sort.value);

  const keyOf = (card) => {
    if (isNumber()) return card.values[Number(sort.value)];
    if (sort.value) return card[sort.value];
    return group.value ? Number(card.ranks.get(group.value)) : card.place;
  };

  // Values fall, names and ranks rise, unless reversed. A missing value is last.
  const order = (found) => {
    const keys = new Map(found.map((card) => [card, keyOf(card)]));
    const sign = isNumber() === reversed.checked ? 1 : -1;
    const isMissing = (card) => Number(Number.isNaN(keys.get(card)));
    const compare = (a, b) => Number(keys.get(a) > keys.get(b)) - Number(keys.get(a) < keys.get(b));
    return found.sort(
      (a, b) => isMissing(a) - isMissing(b) || sign * compare(a, b) || a.place - b.place
    );
  };

  const show = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = cards.filter(
      (card) =>
        (!group.value || card.ranks.has(group.value)) && (!wanted || textOf(card).includes(wanted))
    );
    element("found").replaceChildren(...order(found).map((card) => card.node));
    element("shown").textContent = `${found.length} of ${cards.length}`;
  };

  element("groups").hidden = true;
  element("controls").hidden = false;
  controls.forEach((control) => control.addEventListener("input", show));
  show();
})();
