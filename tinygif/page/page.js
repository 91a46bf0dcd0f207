// A text-to-GIF model in the browser: what sample.py does, step by step.
// Two networks come as ONNX files, `text` and `model` (and a codec's decoder and encoder, where
// clips are not drawn in pixels); all the rest is here: words, noise, schedule, guidance, solver.

const $ = id => document.getElementById(id);
const pause = () => new Promise(resolve => setTimeout(resolve));  // lets the page be painted
let settings, onnx, gif, networks = {};

// ---- words: the same as tinygif/text.py ------------------------------------------------------

const split = text => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
const repr = text => text.includes("'") && !text.includes('"') ? `"${text}"`
  : `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

// The length of what two words have in common: the longest piece, then left and right of it.
function common(a, b) {
  let best = 0, at = 0, bt = 0;
  for (let i = 0; i < a.length; i++)
    for (let j = 0; j < b.length; j++) {
      let n = 0;
      while (i + n < a.length && j + n < b.length && a[i + n] === b[j + n]) n++;
      if (n > best) [best, at, bt] = [n, i, j];
    }
  if (!best) return 0;
  return best + common(a.slice(0, at), b.slice(0, bt)) + common(a.slice(at + best), b.slice(bt + best));
}

// Up to three known words that are near to an unknown one.
function nearWords(word) {
  const scored = settings.words.map(known =>
    [2 * common(known, word) / (known.length + word.length), known]).filter(([score]) => score >= 0.5);
  scored.sort(([a, x], [b, y]) => b - a || (x < y ? 1 : -1));
  return scored.slice(0, 3).map(([, known]) => known);
}

function unknownSentence(word) {
  const near = nearWords(word);
  const known = near.length ? `near it: ${near.join(", ")}` : `it knows: ${settings.words.slice(0, 60).join(", ")}`;
  return `this model does not know the word ${repr(word)}; ${known}`;
}

class PromptError extends Error {
  constructor(sentence, word) { super(sentence); this.word = word; }
}

// The ids of one part of a prompt, filled up with 0; null is the null prompt, whose id is 1.
function encode(prompt) {
  const {words: known, fillers, max_tokens} = settings;
  const isNull = prompt === null || (!prompt && !known.length);
  if (prompt && !known.length)
    throw new PromptError(`this model was trained without captions: leave ${repr(prompt)} out`);
  let words = isNull ? [] : split(prompt);
  if (!isNull && !words.length)
    throw new PromptError(`the prompt ${repr(prompt)} has no words; try ${repr(known.slice(0, 4).join(" "))}`);
  const unknown = words.filter(word => !known.includes(word));
  words = words.filter(word => known.includes(word));
  const strange = unknown.filter(word => !fillers.includes(word) || !words.length);
  if (strange.length) throw new PromptError(unknownSentence(strange[0]), strange[0]);
  if (words.length > max_tokens)
    throw new PromptError(`the prompt has ${words.length} words, this model reads at most ${max_tokens}: shorten ${repr(prompt)}`);
  const ids = new Int32Array(max_tokens);
  ids.set(isNull ? [1] : words.map(word => known.indexOf(word) + 2));
  return ids;
}

// The ids of a prompt; of its parts, where the model draws each part by itself.
function encodeParts(prompt) {
  const {parts, max_tokens} = settings;
  if (parts === 1) return encode(prompt);
  let found = [prompt];
  if (prompt !== null && /\band\b/i.test(prompt)) {
    found = prompt.split(/\band\b|,/i).map(part => part.trim()).filter(part => part);
    if (!found.length) found = [prompt];
  }
  if (found.length > parts)
    throw new PromptError(`the prompt has ${found.length} parts, this page draws at most ${parts}: leave some out`);
  const ids = new Int32Array(parts * max_tokens);
  found.forEach((part, i) => ids.set(encode(part), i * max_tokens));
  return ids;
}

// ---- noise: the same as jax.random -----------------------------------------------------------

// Threefry-2x32 (Salmon et al. 2011), 20 rounds: two words of a key and a counter to two words.
function threefry([k0, k1], x0, x1) {
  const keys = [k0, k1, k0 ^ k1 ^ 0x1bd11bda], turns = [[13, 15, 26, 6], [17, 29, 16, 24]];
  x0 = x0 + k0 | 0; x1 = x1 + k1 | 0;
  for (let i = 0; i < 5; i++) {
    for (const turn of turns[i % 2]) {
      x0 = x0 + x1 | 0;
      x1 = (x1 << turn | x1 >>> 32 - turn) ^ x0;
    }
    x0 = x0 + keys[(i + 1) % 3] | 0; x1 = x1 + keys[(i + 2) % 3] + i + 1 | 0;
  }
  return [x0, x1];
}

// The inverse of the error function (Giles 2010), in single precision.
function inverseErf(x) {
  const near = [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941];
  const far = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682];
  let w = -Math.log1p(-x * x);
  const isNear = w < 5;
  w = isNear ? w - 2.5 : Math.sqrt(w) - 3;
  return x * (isNear ? near : far).reduce((sum, c) => sum * w + c, 0);
}

// Clip number `index` of a seed begins as this: standard normal, the same as in Python.
function noise(seed, index, size) {
  const sampleKey = threefry([0, seed | 0], 0, 3);  // the fourth of the run's five keys
  const key = threefry(threefry(sampleKey, 0, 0), 0, index);
  const view = new DataView(new ArrayBuffer(4)), out = new Float32Array(size);
  const low = Math.fround(-0.99999994);
  for (let i = 0; i < size; i++) {
    const [a, b] = threefry(key, 0, i);
    view.setUint32(0, (a ^ b) >>> 9 | 0x3f800000);
    const uniform = Math.max(low, Math.fround(Math.fround(view.getFloat32(0) - 1) * 2 + low));
    out[i] = Math.SQRT2 * inverseErf(uniform);
  }
  return out;
}

// ---- denoising: the same as tinygif/guidance.py and sampler.py ---------------------------------

const tensor = (data, dims, kind = "float32") => new onnx.Tensor(kind, data, dims);
const stack = (a, b) => tensor(join(a.data, b.data), [2, ...a.dims], a.type);

function join(a, b) {
  const out = new a.constructor(a.length + b.length);
  out.set(a); out.set(b, a.length);
  return out;
}

async function readPrompt(prompt) {
  const {parts, max_tokens} = settings;
  const dims = parts === 1 ? [max_tokens] : [parts, max_tokens];
  return networks.text.run({ids: tensor(encodeParts(prompt), dims, "int32")});
}

// Roll the frames of a clip: a loop has no first frame.
function roll(clip, offset) {
  const frames = settings.shape[0], size = clip.length / frames, out = new Float32Array(clip.length);
  for (let f = 0; f < frames; f++)
    out.set(clip.subarray(f * size, (f + 1) * size), (f + offset) % frames * size);
  return out;
}

// The guess of x0: guided from the null prompt to the prompt, kept in range, known frames put in.
async function guess(x, t, texts, guidance, known) {
  const {shape, limit, loops, alpha, x0_of_x, x0_of_prediction} = settings, T = alpha.length - 1;
  const offset = loops && !known ? Math.floor((T - t) * shape[0] / T) : 0;
  const rolled = offset ? roll(x, offset) : x, inputs = {x_t: tensor(rolled, shape), level: tensor([t / T], []), ...texts};
  if (settings.known) {
    inputs.known = tensor(known ? known.frames : new Float32Array(x.length), shape);
    inputs.is_known = tensor(known ? known.mask : new Uint8Array(shape[0]), [shape[0]], "bool");
  }
  const prediction = (await networks.model.run(inputs)).prediction.data, n = x.length;
  let x0 = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const mixed = prediction[i] + guidance * (prediction[n + i] - prediction[i]);
    x0[i] = x0_of_x[t] * rolled[i] + x0_of_prediction[t] * mixed;
  }
  threshold(x0, limit);
  if (offset) x0 = roll(x0, shape[0] - offset);
  if (known)
    for (let i = 0; i < n; i++) if (known.mask[Math.floor(i * shape[0] / n)]) x0[i] = known.frames[i];
  return x0;
}

// Clip values to [-limit, limit]; or to the range of most of them, and scale that to the limit.
function threshold(x0, limit) {
  let most = limit;
  if (settings.dynamic_threshold !== null) {
    const sizes = x0.map(Math.abs).sort(), place = settings.dynamic_threshold * (sizes.length - 1);
    const low = sizes[Math.floor(place)], high = sizes[Math.ceil(place)];
    most = Math.max(limit, low + (high - low) * (place % 1));
  }
  for (let i = 0; i < x0.length; i++) x0[i] = Math.min(most, Math.max(-most, x0[i])) * limit / most;
}

// From step t to s. DPM-Solver++(2M) also looks at the guess before; without it, this is DDIM.
function move(x, x0, x0Before, t, s, tBefore, solver) {
  const {alpha, sigma} = settings, lambda = i => Math.log(alpha[i] / sigma[i]);
  const second = solver === "dpmpp" && tBefore > t && s > 0;
  const k = second ? 0.5 * (lambda(s) - lambda(t)) / (lambda(t) - lambda(tBefore)) : 0;
  const ratio = sigma[s] / sigma[t], weight = alpha[s] - ratio * alpha[t];
  return x.map((value, i) => ratio * value + weight * (x0[i] + k * (x0[i] - x0Before[i])));
}

async function denoise(options, texts, index, known, onStep) {
  const {shape, alpha, temperature} = settings, T = alpha.length - 1;
  let x = noise(options.seed, index, shape.reduce((a, b) => a * b)).map(v => v * temperature);
  let x0Before = new Float32Array(x.length), tBefore = T;
  for (let i = 0; i < options.steps; i++) {
    const [t, s] = [i, i + 1].map(j => roundHalfEven(T - T * j / options.steps));
    const x0 = await guess(x, t, texts, options.guidance, known);
    x = move(x, x0, x0Before, t, s, tBefore, options.solver);
    [x0Before, tBefore] = [x0, t];
    await onStep(i + 1, options.show === "x0" ? x0 : x);
  }
  return x;
}

function roundHalfEven(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + low % 2 : Math.round(x);
}

// ---- pixels ------------------------------------------------------------------------------------

// Numbers to frames of RGBA, through the codec's decoder and its palette, if there are any.
async function decode(x0, exact = true) {
  const {shape: [frames], size, channels, shape} = settings;
  if (networks.decoder) x0 = (await networks.decoder.run({x0: tensor(x0, shape)})).clip.data;
  const area = size * size, film = [];
  for (let f = 0; f < frames; f++) {
    const frame = new Uint8ClampedArray(4 * area).fill(255);
    for (let i = 0; i < area; i++)
      for (let c = 0; c < 3; c++) {
        const value = x0[(f * channels + (channels === 3 ? c : 0)) * area + i];
        frame[4 * i + c] = roundHalfEven((Math.min(1, Math.max(-1, value)) + 1) * 127.5);
      }
    film.push(frame);
  }
  return settings.colors && exact ? inPalette(film) : film;
}

const distance = (a, b) => (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2;
const nearest = (color, colors) => colors.reduce((best, other) => distance(color, other) < distance(color, best) ? other : best);

// Every pixel in a colour of the palette, and of these the 32 commonest that are not near each other.
function inPalette(film) {
  for (const palette of [() => settings.colors, () => commonest(film)]) {
    const colors = palette(), known = new Map();
    for (const frame of film)
      for (let i = 0; i < frame.length; i += 4) {
        const key = frame[i] << 16 | frame[i + 1] << 8 | frame[i + 2];
        if (!known.has(key)) known.set(key, nearest(frame.subarray(i, i + 3), colors));
        frame.set(known.get(key), i);
      }
  }
  return film;
}

function commonest(film) {
  const counts = new Map(), kept = [];
  for (const frame of film)
    for (let i = 0; i < frame.length; i += 4) {
      const key = frame[i] << 16 | frame[i + 1] << 8 | frame[i + 2];
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  for (const [key] of [...counts].sort(([a, m], [b, n]) => n - m || a - b)) {
    const color = [key >> 16, key >> 8 & 255, key & 255];
    const isFar = kept.every(other => color.some((value, c) => Math.abs(value - other[c]) > 16));
    if (kept.length < 32 && isFar) kept.push(color);
  }
  return kept;
}

// A picture as a known frame: cut to a square, not stretched.
async function readPicture(file) {
  const {size, channels, shape} = settings, picture = await createImageBitmap(file);
  const side = Math.min(picture.width, picture.height);
  const canvas = new OffscreenCanvas(size, size), context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, size, size);
  context.drawImage(picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, size, size);
  const rgba = context.getImageData(0, 0, size, size).data, frame = new Float32Array(channels * size * size);
  for (let i = 0; i < size * size; i++) {
    const [r, g, b] = rgba.subarray(4 * i);
    const values = channels === 3 ? [r, g, b] : [Math.round(0.299 * r + 0.587 * g + 0.114 * b)];
    values.forEach((value, c) => { frame[c * size * size + i] = value / 127.5 - 1; });
  }
  return networks.encoder ? (await networks.encoder.run({frame: tensor(frame, [channels, size, size])})).x0.data : frame;
}

async function readKnown() {
  const files = {0: $("first").files[0], [settings.shape[0] - 1]: $("last").files[0]};
  if (!settings.known || !Object.values(files).some(Boolean)) return null;
  const frames = new Float32Array(settings.shape.reduce((a, b) => a * b)), mask = new Uint8Array(settings.shape[0]);
  for (const [place, file] of Object.entries(files))
    if (file) {
      const frame = await readPicture(file).catch(() => { throw new PromptError(`expected a picture, got ${file.name}, which this browser cannot read`); });
      frames.set(frame, place * frame.length);
      mask[place] = 1;
    }
  return {frames, mask};
}

function toGif(film) {
  const {size, fps} = settings, scale = Math.max(1, Math.floor(128 / size)), wide = size * scale;
  const large = film.map(frame => {
    const from = new Uint32Array(frame.buffer), out = new Uint32Array(wide * wide);
    for (let y = 0; y < wide; y++)
      for (let x = 0; x < wide; x++) out[y * wide + x] = from[Math.floor(y / scale) * size + Math.floor(x / scale)];
    return out;
  });
  const all = new Uint32Array(film.length * size * size);
  film.forEach((frame, i) => all.set(new Uint32Array(frame.buffer), i * size * size));
  const shades = Array.from({length: 256}, (_, i) => [i, i, i]);
  const palette = settings.channels === 1 ? shades : gif.quantize(new Uint8Array(all.buffer), 256);
  const exact = settings.colors ? commonest(film) : palette, encoder = gif.GIFEncoder();
  const place = pixels => settings.channels === 1 ? Uint8Array.from(pixels, p => p & 255) : gif.applyPalette(new Uint8Array(pixels.buffer), exact);
  large.forEach((pixels, i) => {
    const delay = 10 * (Math.round((i + 1) * 100 / fps) - Math.round(i * 100 / fps));
    encoder.writeFrame(place(pixels), wide, wide, {palette: i ? undefined : exact, delay});
  });
  encoder.finish();
  return new Blob([encoder.bytes()], {type: "image/gif"});
}

// ---- the page ----------------------------------------------------------------------------------

// A figure whose canvas plays a film; `film` may be exchanged while it plays.
function newFigure(caption) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = settings.size;
  canvas.role = "img";
  canvas.ariaLabel = caption;
  const context = canvas.getContext("2d"), player = {film: null, figure};
  let frame = 0;
  const timer = setInterval(() => {
    if (!figure.isConnected) return clearInterval(timer);
    if (player.film) player.show(frame++);
  }, 1000 / settings.fps);
  player.show = i => context.putImageData(new ImageData(player.film[i % player.film.length], settings.size), 0, 0);
  figure.append(canvas);
  $("clips").append(figure);
  return player;
}

function readOptions() {
  const number = (id, low, high, whole) => {
    const value = Number($(id).value), fits = $(id).value !== "" && value >= low && value <= high && (!whole || Number.isInteger(value));
    if (!fits) throw new PromptError(`expected ${id} from ${low} to ${high}, got ${repr($(id).value)}`);
    return value;
  };
  const prompt = $("prompt").value.trim();
  return {
    prompt, seed: number("seed", 0, 2 ** 32 - 1, true), steps: number("steps", 1, settings.alpha.length - 1, true),
    guidance: number("guidance", 0, 1000), solver: $("solver").value, count: Number($("count").value), show: $("show").value,
  };
}

function remember(options) {
  const words = new URLSearchParams();
  for (const name of ["prompt", "seed", "steps", "guidance", "solver", "count"]) words.set(name, options[name]);
  history.replaceState(null, "", `?${words}`);
  $("command").textContent = `python sample.py --checkpoint ${shellQuote(settings.name)} `
    + (options.prompt ? `--prompt ${shellQuote(options.prompt)} ` : "")
    + ["first", "last"].map(id => $(id).files[0] ? `--${id}-frame ${shellQuote($(id).files[0].name)} ` : "").join("")
    + `--seed ${options.seed} --steps ${options.steps} --guidance ${options.guidance} --solver ${options.solver}${options.solver === "ddim" ? " --eta 0" : ""} --count ${options.count}`;
}

// A sentence for a shell, which would otherwise run what stands in $(...).
const shellQuote = text => /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

function complain(error) {
  $("message").textContent = error.message;
  $("near").replaceChildren(...(error.word ? nearWords(error.word) : []).map(near => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = near;
    button.onclick = () => {
      $("prompt").value = $("prompt").value.replace(new RegExp(`(?<![\\p{L}\\p{N}])${error.word}(?![\\p{L}\\p{N}])`, "giu"), near);
      draw();
    };
    return button;
  }));
}

let drawing = true;  // until the networks are there
async function draw() {
  if (drawing) return;
  drawing = true;
  document.title = "drawing";
  for (const id of ["draw", "another"]) $(id).disabled = true;
  complain({message: ""});
  try {
    const options = readOptions(), known = await readKnown();
    const prompt = options.prompt || (known || !settings.words.length ? null : "");
    const [away, to] = [await readPrompt(null), await readPrompt(prompt)];
    const texts = Object.fromEntries(Object.keys(to).map(name => [name, stack(away[name], to[name])]));
    remember(options);
    $("clips").replaceChildren();
    $("clips").classList.toggle("many", options.count > 1);
    for (let index = 0; index < options.count; index++) {
      const player = newFigure(options.prompt);
      const x = await denoise(options, texts, index, known, async (step, x) => {
        $("progress").value = (index + step / options.steps) / options.count;
        player.film = await decode(x, false);
        player.show(step);
        await pause();
      });
      player.film = await decode(x);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(toGif(player.film));
      link.download = `${split(options.prompt).slice(0, 8).join("_") || "clip"}.gif`;
      link.textContent = "download as GIF";
      player.figure.append(link);
    }
    document.title = "done";
  } catch (error) {
    complain(error instanceof PromptError ? error : {message: `this did not work: ${error.message}`});
    document.title = "failed";
  }
  for (const id of ["draw", "another"]) $(id).disabled = false;
  drawing = false;
}

// Bytes of a file beside the page or on the network; of the latter the hash is checked.
async function load({url, integrity}) {
  const answer = await fetch(url, {integrity: integrity ?? ""});
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

async function importModule(place) {
  if (!place.integrity) return import(new URL(place.url, location.href));
  return import(URL.createObjectURL(new Blob([await load(place)], {type: "text/javascript"})));
}

function fillIn() {
  const asked = new URLSearchParams(location.search), random = crypto.getRandomValues(new Uint32Array(1))[0];
  $("title").textContent = `text to GIF: ${settings.name.replace(/\/model.safetensors$/, "").split("/").at(-1)}`;
  $("known").hidden = !settings.known;
  const values = {prompt: settings.examples[0], seed: random, steps: settings.steps, guidance: settings.guidance, solver: settings.solver, count: 1};
  for (const [id, value] of Object.entries(values)) $(id).value = asked.get(id) ?? value;
  if ($("count").value === "") $("count").value = 1;
  if ($("solver").value === "") $("solver").value = settings.solver;
  $("examples").replaceChildren(...settings.examples.map(prompt => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = prompt || "no words";
    button.onclick = () => { $("prompt").value = prompt; draw(); };
    return button;
  }));
  $("prompt").oninput = () => {
    try { encodeParts($("prompt").value.trim() || null); complain({message: ""}); }
    catch (error) { complain(error); }
  };
  $("form").onsubmit = event => { event.preventDefault(); draw(); };
  $("another").onclick = () => { $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0]; draw(); };
}

async function main() {
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly, with which this page draws: try a current one");
  settings = JSON.parse(new TextDecoder().decode(await load({url: "settings.json"})));
  fillIn();
  const {runtime, files} = settings;
  const [wasm, runtimeModule, gifModule, ...graphs] = await Promise.all([load(runtime.wasm), importModule(runtime.onnx), importModule(runtime.gif),
    ...files.map(name => load({url: `${name}.onnx`}))]);
  [onnx, gif] = [runtimeModule, gifModule];
  onnx.env.wasm.wasmBinary = wasm;
  onnx.env.wasm.numThreads = 1;  // threads need headers that plain web space does not send
  for (const [i, name] of files.entries()) networks[name] = await onnx.InferenceSession.create(graphs[i]);
  drawing = false;
  await draw();
}

main().catch(error => { complain({message: `the page could not start: ${error.message}`}); document.title = "failed"; });

// for tests and the curious
export {draw, stack, denoise, decode, noise, encodeParts, readPrompt};
