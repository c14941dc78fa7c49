// The requests to the service, and small helpers. All scripts of the page
// share one scope.
"use strict";

const OPTIONS = JSON.parse(document.getElementById("options").textContent);
// Behind a proxy, the path may have a prefix and no trailing slash.
const HERE = location.pathname.replace(/\/*$/, "/");
const API = `${HERE}v1/`;
const NO_SERVER = "Cannot reach the server; is it still running?";

const get = (id) => document.getElementById(id);

function make(name, parent, text = "", className = "") {
  const node = parent.appendChild(document.createElement(name));
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

const percent = (share) => `${Math.round(100 * share)} %`;

let key = sessionStorage.getItem("key") || "", asking = null;

// Asks for the API key, once for all requests that wait for it.
function requestKey() {
  asking ||= new Promise((resolve) => {
    const dialog = get("key");
    dialog.returnValue = "";
    dialog.onclose = () => {
      asking = null;
      const given = dialog.returnValue ? get("key-text").value.trim() : "";
      if (given) sessionStorage.setItem("key", key = given);
      resolve(Boolean(given));
    };
    get("key-text").value = "";
    dialog.showModal();
  });
  return asking;
}

// Sends a request, with the API key if the service needs one.
async function ask(path, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(API + path, { ...options, headers });
  if (response.status !== 401) return response;
  return await requestKey() ? ask(path, options) : response;
}

// Returns the JSON of a response; throws an error with the server's message.
async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw new Refusal(
    body.error || `The server returned status ${response.status}.`);
}

class Refusal extends Error {}

const message = (problem) =>
  problem instanceof Refusal ? problem.message : NO_SERVER;

// Returns the bytes of an item's picture.
async function load(path, options) {
  const response = await ask(path, options);
  return response.ok ? response.blob() : read(response);
}

// Shows a picture; an <img> cannot send the API key itself.
function show(image, path) {
  if (!key) {
    image.src = API + path;
    return;
  }
  load(path).then((content) => {
    image.src = URL.createObjectURL(content);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  }).catch(() => image.onerror?.());
}
