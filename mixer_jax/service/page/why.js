// The dialog that explains a result.
"use strict";

const FULL = 0.78; // opacity of the greatest weight

class Why {
  // `search` is called with the item to search by.
  constructor(search) {
    this.dialog = get("why");
    this.dialog.querySelector(".close").onclick = () => this.dialog.close();
    // A click outside of the dialog hits the dialog itself.
    this.dialog.onclick = (event) => {
      if (event.target === this.dialog) this.dialog.close();
    };
    this.dialog.onclose = () => this.pending?.abort();
    get("heat-shown").onchange = () => {
      get("heat").hidden = !get("heat-shown").checked;
    };
    get("why-like").onclick = () => {
      this.dialog.close();
      search(this.found);
    };
  }

  async open(found) {
    this.found = found;
    this.pending = new AbortController();
    const mine = this.pending;
    get("why-title").textContent = found.text || found.id;
    get("why-status").textContent = "Asking the model …";
    get("why-body").hidden = true;
    this.dialog.showModal();
    try {
      const path = `items/${encodeURIComponent(found.id)}/why`;
      const query = /[?]vector=[0-9]+$/.exec(found.image || "") || "";
      const response = await ask(path + query, { signal: mine.signal });
      const body = await read(response);
      if (mine === this.pending) this.show(found, body);
    } catch (problem) {
      if (mine === this.pending && problem.name !== "AbortError") {
        get("why-status").textContent = message(problem);
      }
    }
  }

  show(found, body) {
    const changed = body.cosine < 0.99;
    get("why-status").textContent = changed
      ? "The picture or the text is not the one that was indexed, so this may "
        + "differ from what the search compares." : "";
    get("why-picture").parentElement.hidden = !found.image;
    if (found.image) show(get("why-picture"), found.image);
    get("heat-choice").hidden = !body.attention;
    this.heat(body);
    this.tokens(body);
    this.facts(found);
    get("why-body").hidden = false;
  }

  heat({ attention, cls, note }) {
    const heat = get("heat");
    heat.replaceChildren();
    heat.hidden = !attention || !get("heat-shown").checked;
    get("heat-text").textContent = note;
    if (!attention) return;
    const weights = attention.flat();
    const most = Math.max(...weights), least = Math.min(...weights);
    heat.style.gridTemplateColumns = `repeat(${attention[0].length}, 1fr)`;
    for (const weight of weights) {
      const cell = make("i", heat);
      // Equal weights leave the picture as it is.
      cell.style.setProperty("--weight", FULL * (weight - least) / most);
      cell.title = percent(weight);
    }
    const place = weights.indexOf(most), columns = attention[0].length;
    heat.setAttribute("aria-label", `Heat map of ${attention.length} by `
      + `${columns} cells; the darkest is in row ${1 + Math.floor(place / columns)}, `
      + `column ${1 + place % columns}.`);
    get("heat-text").textContent = `The darkest cell has ${percent(most)} of `
      + `the attention, the lightest ${percent(least)}; an even share is `
      + `${percent(1 / weights.length)}.`
      + (cls ? ` ${percent(cls)} go to the picture as a whole.` : "");
  }

  tokens({ text, tokens }) {
    const node = get("tokens"), letters = [...text];
    node.replaceChildren();
    const most = Math.max(...tokens.map(({ share }) => Math.abs(share)));
    let end = 0;
    for (const { token, start, end: stop, share } of tokens) {
      const special = stop <= start;
      if (!special) node.append(letters.slice(end, start).join(""));
      const part = make("span", node,
        special ? token : letters.slice(start, stop).join(""));
      part.classList.toggle("special", special);
      part.classList.toggle("back", share < 0);
      part.style.setProperty("--weight", FULL * Math.abs(share) / most);
      part.title = percent(share);
      if (!special) end = stop;
    }
    node.append(letters.slice(end).join(""));
    node.hidden = !letters.length;
    const top = [...tokens].sort((a, b) => b.share - a.share).slice(0, 3)
      .map(({ token, share }) => `${token} ${percent(share)}`).join(", ");
    get("tokens-text").textContent = !letters.length ? "The item has no text."
      : !tokens.length ? "The model does not weigh single words."
        : `Shares of the text's concept vector, the largest first: ${top}.`
          + (tokens.some(({ share }) => share < 0)
            ? " Blue words pull the other way." : "");
  }

  facts(found) {
    get("facts").replaceChildren();
    const rows = { ID: found.id, Category: found.category, Group: found.group,
      ...found.fields, Cosine: found.score.toFixed(4) };
    if (typeof found.probability === "number") {
      rows.Probability = percent(found.probability);
    }
    for (const [name, value] of Object.entries(rows)) {
      if (value === "" || value === null) continue;
      make("dt", get("facts"), name);
      make("dd", get("facts"), String(value));
    }
  }
}
