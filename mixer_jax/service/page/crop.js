// The frame that selects a part of the picture, by mouse, touch or keyboard.
"use strict";

const SMALLEST = 12; // pixels on the screen
const KEY_PAUSE = 500; // milliseconds between the last key and the search

class Crop {
  // `changed` is called after the frame has been changed.
  constructor(changed) {
    [this.frame, this.picture, this.node] = ["frame", "picture", "crop"].map(get);
    this.changed = changed;
    this.box = null; // left, top, right, bottom, as shares of the picture
    this.frame.onpointerdown = (event) => this.start(event);
    this.node.onkeydown = (event) => this.press(event);
  }

  // Returns the box in pixels of the picture, or null.
  pixels() {
    if (!this.box) return null;
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    const [left, top, right, bottom] = this.box;
    const x1 = Math.min(Math.round(left * width), width - 1);
    const y1 = Math.min(Math.round(top * height), height - 1);
    return [x1, y1, Math.max(Math.round(right * width), x1 + 1),
      Math.max(Math.round(bottom * height), y1 + 1)];
  }

  set(box) {
    this.box = box;
    this.node.hidden = !box;
    get("crop-keys").hidden = !box;
    this.frame.classList.toggle("marking", Boolean(box));
    get("mark").setAttribute("aria-pressed", Boolean(box));
    if (!box) return;
    const [left, top, right, bottom] = box.map((share) => `${100 * share}%`);
    Object.assign(this.node.style, { left, top,
      width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` });
  }

  // Shows a frame in the middle, or removes it.
  toggle() {
    this.set(this.box ? null : [0.2, 0.2, 0.8, 0.8]);
    if (this.box) this.node.focus();
    this.changed();
  }

  // Draws a new frame, moves it, or drags one of its corners.
  start(event) {
    const inside = this.node.contains(event.target);
    // Without a frame, a finger scrolls the page.
    if (event.button || (event.pointerType === "touch" && !this.box)) return;
    event.preventDefault();
    const area = this.frame.getBoundingClientRect();
    const place = ({ clientX, clientY }) => [
      clamp((clientX - area.left) / area.width),
      clamp((clientY - area.top) / area.height)];
    const before = this.box, from = place(event);
    const corner = event.target.dataset?.corner;
    const drag = !inside ? ([x, y]) => between(from, [x, y])
      : corner ? ([x, y]) => between(opposite(before, corner), [x, y])
        : ([x, y]) => moved(before, x - from[0], y - from[1]);
    const far = ([x, y]) => Math.hypot(
      (x - from[0]) * area.width, (y - from[1]) * area.height) > SMALLEST / 2;
    let dragged = false;
    this.frame.setPointerCapture(event.pointerId);
    this.frame.onpointermove = (next) => {
      if (!(dragged ||= far(place(next)))) return;
      const box = drag(place(next));
      if ((box[2] - box[0]) * area.width >= SMALLEST
          && (box[3] - box[1]) * area.height >= SMALLEST) this.set(box);
    };
    const end = (kept) => {
      this.frame.onpointermove = this.frame.onpointerup = null;
      this.frame.onpointercancel = null;
      if (!kept) this.set(before);
      if (this.box) this.node.focus({ focusVisible: false });
      if (String(this.box) !== String(before)) this.changed();
    };
    this.frame.onpointerup = () => end(true);
    this.frame.onpointercancel = () => end(false);
  }

  // Arrows move the frame; with Shift, they move its lower right corner.
  press(event) {
    if (event.key === "Escape") {
      this.set(null);
      get("mark").focus();
      this.changed();
      return;
    }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
      ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = step.map((way) => way * (event.ctrlKey ? 0.005 : 0.03));
    const [left, top, right, bottom] = this.box;
    this.set(event.shiftKey
      ? [left, top, clamp(right + x, left + 0.05), clamp(bottom + y, top + 0.05)]
      : moved(this.box, x, y));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.changed(), KEY_PAUSE);
  }
}

const clamp = (share, least = 0) => Math.max(least, Math.min(1, share));

const between = ([x, y], [u, v]) =>
  [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];

const opposite = ([left, top, right, bottom], corner) =>
  [corner[1] === "w" ? right : left, corner[0] === "n" ? bottom : top];

function moved([left, top, right, bottom], x, y) {
  const across = Math.max(-left, Math.min(1 - right, x));
  const down = Math.max(-top, Math.min(1 - bottom, y));
  return [left + across, top + down, right + across, bottom + down];
}
