// Where in the photo: a box, or what a brush paints, in per cent of the photo as recipes have it.
import { byId, choose, chosen } from "./dom.js";
import { outlines } from "./outline.js";

const COLOUR = "#f2b92f";
const WIDE = 384;  // of the mask that is painted on: its outline is simplified anyway

export function regionTool(app) {
  const [look, box, canvas] = [byId("look"), byId("box"), byId("brush")];
  const sides = [0, 1, 2, 3].map((side) => byId(`box-${side}`));
  let [from, last, polygons] = [null, null, []];

  const kind = () => (app.state?.regions ? chosen("where") : "all");
  const place = (event) => {
    const area = byId("photo").getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height].map((share) => Math.min(1, Math.max(0, share)));
  };
  const whole = () => sides.map((side) => Number(side.value));
  const drawn = ([left, top, right, bottom]) => right > left && bottom > top;

  function show() {
    const now = kind();
    byId("of-box").hidden = now !== "box";
    byId("of-brush").hidden = now !== "brush";
    byId("of-region").hidden = now === "all";
    look.classList.toggle("draws", now !== "all");
    canvas.hidden = now !== "brush";
    const [left, top, right, bottom] = whole();
    box.hidden = now !== "box" || !drawn([left, top, right, bottom]);
    Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    byId("painted").textContent = polygons.length ? `${polygons.length} ${polygons.length === 1 ? "part is" : "parts are"} painted.` : "";
  }

  // --- the box ----------------------------------------------------------------------------------------------------
  function span([ax, ay], [bx, by]) {
    [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)]
      .forEach((share, side) => { sides[side].value = (100 * share).toFixed(1); });
    show();
  }

  // --- the brush --------------------------------------------------------------------------------------------------
  function size() {
    const { width, height } = app.photo?.width ? app.photo : { width: 4, height: 3 };
    Object.assign(canvas, { width: WIDE, height: Math.max(1, Math.round((WIDE * height) / width)) });
    polygons = [];
  }

  function stroke(to) {
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const width = Number(byId("brush-size").value) / 100 * Math.min(canvas.width, canvas.height);
    Object.assign(pen, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: COLOUR });
    pen.beginPath();
    pen.moveTo(last[0] * canvas.width, last[1] * canvas.height);
    pen.lineTo(to[0] * canvas.width, to[1] * canvas.height + 0.01);
    pen.stroke();
    last = to;
  }

  function outlined() {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const mask = Uint8Array.from({ length: canvas.width * canvas.height }, (_, at) => (data[4 * at + 3] > 127 ? 1 : 0));
    polygons = outlines(mask, canvas.width, canvas.height);
    show();
  }

  look.addEventListener("pointerdown", (event) => {
    if (kind() === "all" || event.button) return;
    look.setPointerCapture(event.pointerId);
    [from, last] = [place(event), place(event)];
    if (kind() === "brush") stroke(last);
    event.preventDefault();
  });
  look.addEventListener("pointermove", (event) => {
    if (!from) return;
    if (kind() === "box") span(from, place(event)); else stroke(place(event));
  });
  const end = () => { if (from && kind() === "brush") outlined(); from = null; };
  look.addEventListener("pointerup", end);
  look.addEventListener("pointercancel", end);

  document.querySelectorAll("input[name=where]").forEach((input) => input.addEventListener("change", show));
  sides.forEach((side) => side.addEventListener("input", show));
  byId("unpaint").addEventListener("click", () => { size(); show(); });
  app.addEventListener("photo", () => {
    const { width, height } = app.photo?.width ? app.photo : { width: 4, height: 3 };
    if (Math.abs(canvas.width / canvas.height - width / height) > 0.01) size();
    show();
  });

  // Show a region of a cell, to go on from; whether it is one that is drawn here.
  function take(region) {
    const { polygon, feather, invert } = region ?? {};
    const corners = polygon?.length === 1 && boxed(polygon[0]);
    choose("where", corners ? "box" : polygon ? "brush" : "all");
    if (corners) corners.forEach((side, at) => { sides[at].value = side; });
    else if (polygon) paint(polygon);
    if (polygon) byId("feather").value = feather ?? 2;
    byId("invert").checked = Boolean(invert);
    show();
    return !region || Boolean(polygon);
  }

  // Left, top, right and bottom of a polygon that is a box.
  function boxed(points) {
    const [xs, ys] = [0, 1].map((axis) => [...new Set(points.map((point) => point[axis]))].sort((a, b) => a - b));
    return points.length === 4 && xs.length === 2 && ys.length === 2 ? [xs[0], ys[0], xs[1], ys[1]] : null;
  }

  function paint(given) {
    size();
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = COLOUR;
    for (const points of given) {
      pen.beginPath();
      points.forEach(([x, y]) => pen.lineTo((x / 100) * canvas.width, (y / 100) * canvas.height));
      pen.fill();
    }
    polygons = given;
  }

  // The region as a recipe says it, undefined where it is all of the photo. Throws where nothing is drawn.
  function region() {
    const now = kind();
    if (now === "all") return undefined;
    if (now === "box" && !drawn(whole())) throw new Error("Draw the box over the photo first.");
    if (now === "brush" && !polygons.length) throw new Error("Paint over the photo first.");
    const shape = now === "box" ? { box: whole() } : { polygon: polygons };
    return { ...shape, feather: Number(byId("feather").value), ...(byId("invert").checked ? { invert: true } : {}) };
  }
  return { region, show, take };
}
