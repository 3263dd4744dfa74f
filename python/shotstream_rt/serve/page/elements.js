// The elements of the page: found by their id, and made.

export const $ = (id) => document.getElementById(id);

export const make = (tag, fields = {}, ...inside) => {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...inside);
  return node;
};
