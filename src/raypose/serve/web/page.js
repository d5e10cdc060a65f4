"use strict";
// Asks for everybody above ASKED_CONF once and filters here, so that the sliders answer at once.
const ASKED_CONF = 0.05;
const $ = (id) => document.getElementById(id);
let skeleton = null, shown = null, picture = null, stream = null, opening = false, asking = false, waiting = null;

async function askModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.status === 401) { $("key-box").open = true; return say("The service asks for an API key."); }
  if (!response.ok) throw new Error(await reason(response));
  const about = await response.json();
  skeleton = about.skeleton;
  $("model").textContent = about.models.map((m) => `${about.name} ${m.version}, ${m.architecture}, ${m.imgsz} px, ${m.compute}`).join(" · ");
}

function headers() { return $("key").value ? { "X-API-Key": $("key").value } : {}; }
function say(text) { $("status").textContent = text; }

// What stands before the service, such as a proxy, refuses in words of its own.
async function reason(response) {
  const { error } = await response.json().catch(() => ({}));
  return error ? `${error.message} (${error.code})` : `${response.status} ${response.statusText}`;
}

// What a user gives takes the place of the camera.
function give(file) {
  stopCamera();
  return predict(file);
}

async function predict(blob) {
  if (asking) { waiting = blob; return; }
  asking = true;
  const started = performance.now();
  try {
    if (!skeleton) await askModels();
    const response = await fetch(`v1/predict?conf=${ASKED_CONF}`, { method: "POST", body: blob, headers: { ...headers(), "Content-Type": blob.type || "application/octet-stream" } });
    if (!response.ok) { $("key-box").open ||= response.status === 401; return say(await reason(response)); }
    const answer = await response.json();
    // The browser turns the picture as EXIF says, and so does the service.
    picture = await createImageBitmap(blob, { imageOrientation: "from-image" });
    shown = { answer, ms: performance.now() - started };
    show();
  } catch (error) {
    say(`The service does not answer: ${error.message}`);
  } finally {
    asking = false;
    const next = waiting;
    waiting = null;
    if (next) predict(next);
  }
}

function show() {
  if (!shown) return;
  const image = shown.answer.images[0];
  const least = Number($("conf").value), leastKeypoint = Number($("keypoint-conf").value);
  const people = image.people.filter((person) => person.score >= least);
  draw(image, people, leastKeypoint);
  fill(people, leastKeypoint);
  const model = image.timings_ms.inference.toFixed(0), served = shown.answer.timings_ms.total.toFixed(0);
  const number = people.length === 1 ? "1 person" : `${people.length} people`;
  say(`${number}, ${image.width} × ${image.height} pixels. Model ${model} ms, service ${served} ms, with the network ${shown.ms.toFixed(0)} ms. Version ${shown.answer.model.version}.`);
  $("json").textContent = JSON.stringify(shown.answer, null, 1);
  $("json-box").hidden = false;
}

function draw(image, people, leastKeypoint) {
  const canvas = $("canvas"), pen = canvas.getContext("2d");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.hidden = false;
  canvas.setAttribute("aria-label", `The image with ${people.length} skeletons drawn on it`);
  pen.drawImage(picture, 0, 0, image.width, image.height);
  pen.lineCap = "round";
  for (const person of people.slice().reverse()) drawPerson(pen, person, leastKeypoint);
}

function drawPerson(pen, person, least) {
  const [left, top, right, bottom] = person.box, size = Math.max(right - left, bottom - top);
  const line = Math.max(1.5, size / 110), dot = Math.max(2, size / 75);
  const at = new Map(person.keypoints.filter((point) => point.confidence >= least).map((point) => [point.name, point]));
  pen.strokeStyle = "rgb(250 235 90)";
  pen.lineWidth = Math.max(1, line / 2);
  pen.strokeRect(left, top, right - left, bottom - top);
  skeleton.edges.forEach(([first, second], index) => {
    const from = at.get(skeleton.keypoints[first]), to = at.get(skeleton.keypoints[second]);
    if (!from || !to) return;
    for (const [style, width] of [["rgb(15 15 18)", line * 1.6], [`rgb(${skeleton.edge_colours[index].join(" ")})`, line]]) {
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(from.x, from.y);
      pen.lineTo(to.x, to.y);
      pen.stroke();
    }
  });
  skeleton.keypoints.forEach((name, index) => {
    const point = at.get(name);
    if (!point) return;
    pen.fillStyle = `rgb(${skeleton.keypoint_colours[index].join(" ")})`;
    pen.beginPath();
    pen.arc(point.x, point.y, dot * (0.6 + 0.4 * point.confidence), 0, 2 * Math.PI);
    pen.fill();
  });
}

function fill(people, least) {
  $("table").hidden = people.length === 0;
  $("rows").replaceChildren(...people.map((person, index) => {
    const row = document.createElement("tr");
    const sure = person.keypoints.filter((point) => point.confidence >= least).length;
    const cells = [index + 1, person.class, person.score.toFixed(2), person.box.map((value) => Math.round(value)).join(", "), `${sure} of ${skeleton.keypoints.length}`];
    cells.forEach((text, column) => {
      const cell = document.createElement(column ? "td" : "th");
      if (!column) cell.scope = "row";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }));
}

async function toggleCamera() {
  if (stream) return stopCamera();
  if (opening) return;
  if (!navigator.mediaDevices) return say("No camera: browsers give it to pages from https:// or localhost alone.");
  opening = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(`No camera: ${error.message}`);
  } finally {
    opening = false;
  }
  stream.getTracks().forEach((track) => track.addEventListener("ended", stopCamera));
  showCamera();
  $("video").srcObject = stream;
  await $("video").play();
  watch(stream);
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  showCamera();
}

function showCamera() {
  $("camera").setAttribute("aria-pressed", String(Boolean(stream)));
  $("camera").textContent = stream ? "Stop the camera" : "Use the camera";
  // Of each frame a screen reader would have to tell, and never come to an end.
  $("status").setAttribute("aria-live", stream ? "off" : "polite");
}

// One frame at a time, of its `own` stream: the next one is taken when the last one is answered, so a slow service is
// not flooded.
async function watch(own) {
  const frame = document.createElement("canvas"), video = $("video");
  while (stream === own) {
    frame.width = video.videoWidth;
    frame.height = video.videoHeight;
    frame.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.85));
    if (blob && stream === own) await predict(blob);  // stopped meanwhile, it would take the place of what was given
    await new Promise((done) => setTimeout(done, 30));
  }
}

function imageIn(items) { return [...items].find((file) => file.type.startsWith("image/")); }

$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";  // or the same file, chosen again, would be no change
  if (file) give(file);
});
$("camera").addEventListener("click", toggleCamera);
$("key").addEventListener("change", lookAround);
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("json").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("json"));
    $("copy").textContent = "Selected; copy it with your keyboard";
  }
});
for (const id of ["conf", "keypoint-conf"]) {
  $(id).addEventListener("input", () => { $(`${id}-shown`).textContent = Number($(id).value).toFixed(2); show(); });
}
addEventListener("paste", (event) => { const file = imageIn(event.clipboardData.files); if (file) give(file); });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = imageIn(event.dataTransfer.files);
  if (file) give(file); else say("That is not an image.");
});
function lookAround() { askModels().catch((error) => say(`The service does not answer: ${error.message}`)); }
lookAround();
