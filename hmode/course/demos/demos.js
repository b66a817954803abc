// Demonstrations of the book: each fills the element <div class="demo" id="NAME">. No server, no
// library. Pictures are drawn on canvases, numbers stand in an <output> below.
"use strict";

const element = (parent, name, attributes = {}, text = "") => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
};

// A labelled slider; its value is read by the returned function.
const slider = (parent, label, low, high, step, start, changed) => {
  const row = element(parent, "label", { class: "demo-row" });
  element(row, "span", {}, label);
  const input = element(row, "input", { type: "range", min: low, max: high, step, value: start });
  input.setAttribute("aria-label", label);
  const shown = element(row, "b", {}, String(start));
  input.addEventListener("input", () => { shown.textContent = input.value; changed(); });
  return () => Number(input.value);
};


// Heat map of numbers, row by row; `top` is drawn brightest.
const heat = (canvas, values, columns, top) => {
  const rows = values.length / columns;
  canvas.width = columns; canvas.height = rows;
  const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    const t = Math.max(0, Math.min(1, value / top));
    picture.data.set([255 * Math.min(1, 1.6 * t), 255 * t ** 1.4, 80 + 60 * t - 60 * t * t, 255], 4 * i);
  });
  context.putImageData(picture, 0, 0);
};

// A generator of the same numbers for everyone (linear congruential).
const numbers = (seed) => () => (seed = (1103515245 * seed + 12345) % 2147483648) / 2147483648;

// Heads of a street: smaller and closer together farther up.
const street = (people, width, height) => {
  const random = numbers(7), heads = [];
  for (let i = 0; i < people; i++) {
    const far = random() ** 1.7;
    heads.push([width * (0.5 + (random() - 0.5) * (0.35 + 0.65 * (1 - far))), height * (0.95 - 0.8 * far)]);
  }
  return heads;
};

const bell = (centre, sigma, length) => {
  const values = Array.from({ length }, (_, i) => Math.exp(-0.5 * ((i + 0.5 - centre) / sigma) ** 2));
  const sum = values.reduce((a, b) => a + b, 0);
  return values.map((v) => v / sum);
};

const density = (heads, sigma, width, height) => {
  const map = new Float64Array(width * height);
  for (const [x, y] of heads) {
    const across = bell(x, sigma, width), down = bell(y, sigma, height);
    for (let r = 0; r < height; r++)
      for (let c = 0; c < width; c++) map[r * width + c] += down[r] * across[c];
  }
  return map;
};

const total = (values) => values.reduce((a, b) => a + b, 0);

const DEMOS = {
  sigma(box) {
    const [width, height] = [120, 80], heads = street(40, width, height);
    const canvas = element(box, "canvas", { role: "img", "aria-label": "density map" });
    const draw = () => {
      const map = density(heads, sigma(), width, height), peak = Math.max(...map);
      heat(canvas, Array.from(map), width, peak);
      words.textContent = `sum ${total(map).toFixed(3)} people; peak ${peak.toFixed(4)} people per pixel`;
    };
    const sigma = slider(box, "σ (pixels)", 0.5, 16, 0.5, 4, draw);
    const words = element(box, "output");
    draw();
  },

  pair(box) {
    const canvas = element(box, "canvas", { width: 480, height: 220, role: "img", "aria-label": "error by weight" });
    const draw = () => {
      const [a, b, w] = [first(), second(), weight()];
      const error = (v) => Math.abs(v * a + (1 - v) * b);
      const best = a * b < 0 ? b / (b - a) : Math.abs(a) < Math.abs(b) ? 1 : 0;
      const top = Math.max(Math.abs(a), Math.abs(b), 1), context = canvas.getContext("2d");
      const x = (v) => 30 + 420 * v, y = (e) => 200 - (180 * e) / top;
      context.clearRect(0, 0, 480, 220);
      context.lineWidth = 2; context.strokeStyle = "#0072b2"; context.beginPath();
      for (let i = 0; i <= 100; i++) context.lineTo(x(i / 100), y(error(i / 100)));
      context.stroke();
      for (const [v, colour] of [[best, "#009e73"], [w, "#d55e00"]]) {
        context.fillStyle = colour; context.beginPath();
        context.arc(x(v), y(error(v)), 7, 0, 7); context.fill();
      }
      words.textContent = `error of the mixture ${error(w).toFixed(2)} (orange); best weight ${best.toFixed(2)}: ${error(best).toFixed(2)} (green); plain average ${error(0.5).toFixed(2)}`;
    };
    const first = slider(box, "error of the first expert", -10, 10, 0.5, -2, draw);
    const second = slider(box, "error of the second expert", -10, 10, 0.5, 6, draw);
    const weight = slider(box, "weight of the first", 0, 1, 0.05, 0.5, draw);
    const words = element(box, "output");
    draw();
  },

  mixture(box) {
    const pairs = [[0, 1], [0, 2], [1, 2]];
    const table = element(box, "table");
    const draw = () => {
      const e = experts.map((each) => each()), p = inner.map((each) => each());
      const groups = pairs.map(([i, j], m) => p[m] * e[i] + (1 - p[m]) * e[j]);
      const powers = outer.map((each) => Math.exp(each())), g = powers.map((v) => v / total(powers));
      const weights = [0, 1, 2].map((k) => total(pairs.map(([i, j], m) => g[m] * (k === i ? p[m] : k === j ? 1 - p[m] : 0))));
      table.replaceChildren();
      pairs.forEach(([i, j], m) => {
        const row = element(table, "tr");
        element(row, "td", {}, `group ${m + 1}: ${p[m].toFixed(2)} · E${i + 1} + ${(1 - p[m]).toFixed(2)} · E${j + 1} = ${groups[m].toFixed(2)}`);
        element(row, "td", {}, `its weight ${g[m].toFixed(2)}`);
      });
      words.textContent = `final ${total(groups.map((v, m) => g[m] * v)).toFixed(3)} = ` +
        weights.map((v, k) => `${v.toFixed(2)} · ${e[k].toFixed(1)}`).join(" + ") + "; plain average " + (total(e) / 3).toFixed(3);
    };
    const experts = [1, 2, 3].map((k) => slider(box, `expert E${k}`, 0, 10, 0.5, [2, 4, 9][k - 1], draw));
    const inner = pairs.map(([i, j]) => slider(box, `gate 1: weight of E${i + 1} against E${j + 1}`, 0, 1, 0.05, 0.5, draw));
    const outer = [1, 2, 3].map((m) => slider(box, `gate 2: logit of group ${m}`, -4, 4, 0.5, 0, draw));
    const words = element(box, "output");
    draw();
  },

  rel(box) {
    const truth = [12, 9, 8, 6, 5.5, 5, 3, 1, 0], start = [10, 10.5, 5, 7, 5, 6, 4, 6.5, 0.5];
    const colours = ["#0072b2", "#d55e00", "#009e73"], space = "http://www.w3.org/2000/svg";
    const svg = box.appendChild(document.createElementNS(space, "svg"));
    svg.setAttribute("viewBox", "0 0 480 260");
    const make = (name, attributes) => {
      const made = svg.appendChild(document.createElementNS(space, name));
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      return made;
    };
    const values = [...start], height = 16;
    const bars = values.map((_, j) => make("rect", { x: 10 + 52 * j, width: 40, fill: colours[j % 3], tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 15, "aria-label": `predicted count of region ${j + 1}`, style: "cursor: ns-resize; touch-action: none" }));
    truth.forEach((v, j) => make("line", { x1: 6 + 52 * j, x2: 54 + 52 * j, y1: 250 - height * v, y2: 250 - height * v, stroke: "#888", "stroke-width": 3, "stroke-dasharray": "5 3", "pointer-events": "none" }));
    const words = element(box, "output");
    const draw = () => {
      bars.forEach((bar, j) => {
        bar.setAttribute("y", 250 - height * values[j]);
        bar.setAttribute("height", Math.max(height * values[j], 2));
        bar.setAttribute("aria-valuenow", values[j]);
      });
      const rises = [0, 1, 2, 3, 4, 5].map((j) => Math.max(0, values[j + 3] - values[j]));
      const said = rises.map((rise, j) => (rise ? `x${j + 4} over x${j + 1}: ${rise.toFixed(1)}` : "")).filter(Boolean);
      words.textContent = `L_Rel = ${total(rises).toFixed(1)}` + (said.length ? ` (${said.join(", ")})` : ", all in order") + `; people predicted ${total(values).toFixed(1)}, true ${total(truth).toFixed(1)}`;
    };
    const put = (j, value) => { values[j] = Math.max(0, Math.min(15, Math.round(2 * value) / 2)); draw(); };
    bars.forEach((bar, j) => {
      bar.addEventListener("keydown", (event) => {
        const step = { ArrowUp: 0.5, ArrowRight: 0.5, ArrowDown: -0.5, ArrowLeft: -0.5 }[event.key];
        if (step) { event.preventDefault(); put(j, values[j] + step); }
      });
      bar.addEventListener("pointerdown", (event) => { bar.setPointerCapture(event.pointerId); event.preventDefault(); bar.focus(); });
      bar.addEventListener("pointermove", (event) => {
        if (!bar.hasPointerCapture(event.pointerId)) return;
        const frame = svg.getBoundingClientRect();
        put(j, (250 - ((event.clientY - frame.top) * 260) / frame.height) / height);
      });
    });
    for (const [name, list] of [["the example", start], ["perfect", truth], ["flat", truth.map(() => 5.5)], ["empty", truth.map(() => 0)]]) {
      element(box, "button", { type: "button" }, name).addEventListener("click", () => { values.splice(0, 9, ...list); draw(); });
    }
    draw();
  },

  gates(box) {
    const canvas = element(box, "canvas", { role: "img", "aria-label": "map" });
    const draw = () => {
      const shown = GATES[which()];
      heat(canvas, shown.values, shown.columns, shown.top);
      words.textContent = `${shown.name}: ${shown.words}`;
    };
    const which = slider(box, "map", 0, GATES.length - 1, 1, 0, draw);
    const words = element(box, "output");
    draw();
  },

  game(box) {
    const [width, height] = [128, 96], heads = street(60, width, height);
    const canvas = element(box, "canvas", { width: 512, height: 384, role: "img", "aria-label": "heads and regions" });
    const draw = () => {
      const moved = heads.map(([x, y]) => [(x + shift()) % width, y]), cells = 2 ** level();
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff"; context.fillRect(0, 0, 512, 384);
      for (const [list, colour] of [[heads, "#0072b2"], [moved, "#d55e00"]]) {
        context.fillStyle = colour;
        for (const [x, y] of list) { context.beginPath(); context.arc(4 * x, 4 * y, 4, 0, 7); context.fill(); }
      }
      context.strokeStyle = "#888"; context.beginPath();
      for (let i = 1; i < cells; i++) {
        context.moveTo((512 * i) / cells, 0); context.lineTo((512 * i) / cells, 384);
        context.moveTo(0, (384 * i) / cells); context.lineTo(512, (384 * i) / cells);
      }
      context.stroke();
      const game = (n) => {
        const off = new Map();
        const add = ([x, y], one) => {
          const key = Math.floor((x * n) / width) + n * Math.floor((y * n) / height);
          off.set(key, (off.get(key) || 0) + one);
        };
        heads.forEach((each) => add(each, 1)); moved.forEach((each) => add(each, -1));
        return total([...off.values()].map(Math.abs));
      };
      words.textContent = [0, 1, 2, 3].map((l) => `GAME(${l}) = ${game(2 ** l)}`).join(", ");
    };
    const shift = slider(box, "shift to the right (pixels)", 0, 32, 1, 4, draw);
    const level = slider(box, "level shown", 0, 3, 1, 2, draw);
    const words = element(box, "output");
    draw();
  },
};

document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".demo")) DEMOS[box.id](box);
});
