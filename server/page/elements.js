// Elements of the page: found by their id, and made without a word of HTML, so that no text can become any.

export function find(id) {
  return document.getElementById(id);
}

export function make(name, properties = {}, ...content) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...content);
  return element;
}
