// Conditions on the fields that the index declares.
"use strict";

const FLAGS = { "": "any", true: "yes", false: "no" };
const MAX_VALUES = 200; // suggested per field

class Filters {
  // `changed` is called after a condition has been changed.
  constructor(changed) {
    this.node = get("conditions");
    this.inputs = {}; // the controls of each field
    for (const [name, kind] of Object.entries(OPTIONS.fields)) {
      this.inputs[name] = this.controls(name, kind);
      const option = make("option", get("group"), name);
      option.value = name;
    }
    this.node.onchange = () => { this.count(); changed(); };
    for (const id of ["clear", "unfilter"]) {
      get(id).onclick = () => { this.set({}); changed(); };
    }
  }

  controls(name, kind) {
    const id = `field-${Object.keys(this.inputs).length}`;
    make("label", this.node, name, "field").htmlFor = id;
    if (kind === "flag") {
      const select = make("select", this.node);
      for (const [value, text] of Object.entries(FLAGS)) {
        make("option", select, text).value = value;
      }
      select.id = id;
      return [select];
    }
    const row = make("div", this.node, "", kind === "number" ? "pair" : "");
    const ends = kind === "number" ? ["at least", "at most"] : ["any"];
    return ends.map((text, place) => {
      const input = make("input", row);
      input.id = place ? `${id}-${place}` : id;
      input.placeholder = text;
      if (kind === "number") {
        input.type = "number";
        input.step = "any";
        input.setAttribute("aria-label", `${name}, ${text}`);
      } else {
        make("datalist", row).id = `${id}-values`;
        input.setAttribute("list", `${id}-values`);
      }
      return input;
    });
  }

  // Returns the conditions, as the service takes them.
  get() {
    const where = {};
    for (const [name, kind] of Object.entries(OPTIONS.fields)) {
      const given = this.inputs[name].map((input) => input.value.trim());
      if (given.every((text) => !text)) continue;
      where[name] = kind === "text" ? given[0]
        : kind === "flag" ? given[0] === "true"
          : Object.fromEntries(["min", "max"].map((end, place) =>
            [end, given[place]]).filter(([, text]) => text)
            .map(([end, text]) => [end, Number(text)]));
    }
    return where;
  }

  set(where) {
    for (const [name, inputs] of Object.entries(this.inputs)) {
      const value = where[name];
      const range = typeof value === "object";
      inputs[0].value = String((range ? value?.min : value) ?? "");
      if (inputs[1]) inputs[1].value = String(value?.max ?? "");
    }
    this.count();
  }

  count() {
    const count = Object.keys(this.get()).length;
    get("filter-count").textContent = count || "";
    get("clear").hidden = !count;
    if (count) get("filters").open = true;
  }

  // Suggests the values of items that were found.
  learn(results) {
    for (const [name, [input]] of Object.entries(this.inputs)) {
      if (!input.list) continue;
      const known = new Set([...input.list.options].map((one) => one.value));
      for (const found of results) {
        const value = found.fields[name] ?? found[name];
        if (!value || known.has(value) || known.size >= MAX_VALUES) continue;
        known.add(value);
        make("option", input.list).value = value;
      }
    }
  }
}
