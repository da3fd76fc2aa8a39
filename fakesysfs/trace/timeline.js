"use strict";
// The page of a trace. `trace` is what fakesysfs/trace/timeline.py wrote; places ("at") order the events.
(() => {
  const $ = (id) => document.getElementById(id);
  const trace = JSON.parse($("trace").textContent);
  // The names of the fields stand once; a null is left out.
  for (const [kind, list] of Object.entries(trace)) {
    if (list.fields) {
      trace[kind] = list.events.map((row) =>
        Object.fromEntries(list.fields.map((field, i) => [field, row[i]]).filter(([, said]) => said !== undefined && said !== null)));
    }
  }
  const NAMES = new Set(["lookup", "getattr", "setattr", "readlink", "opendir", "getxattr", "setxattr", "listxattr", "removexattr"]);
  const READS = new Set(["read", "open"]);
  const BLOCK_LOCK = /^memory\d+$/;
  const MANY = 512; // columns of the map; above, neighbours with the same history share one

  // Events ----------------------------------------------------------------------------------------------------------

  // Each event gets its kind, its lane, its beginning and end in places and seconds, and its words for the search.
  const all = [];
  const callOf = new Map();
  const last = (list) => list[list.length - 1];
  const name = (path) => path.split("/").slice(-1)[0];
  const file = (path) => path.split("/").slice(-2).join("/"); // memory70/state says more than state
  const process = (call) => trace.processes[call.process];
  let lastTime = 0;

  function add(kind, event, lane, words) {
    const [from, to] = Array.isArray(event.at) ? event.at : [event.at, event.at];
    const taken = event.duration ?? 0;
    const shown = {
      kind, event, lane, from, to: to ?? trace.end, start: event.time, end: event.time + taken,
      under: Array.isArray(event.at) && event.duration === undefined,
      words: words.join("\n").toLowerCase(), index: 0, sub: 0,
    };
    lastTime = Math.max(lastTime, shown.end);
    all.push(shown);
    return shown;
  }

  for (const op of trace.ops) {
    const who = process(op);
    const path = trace.paths[op.path];
    const words = [op.op, path, op.data ?? "", who.program, who.comm, String(who.pid), op.errno ?? "", op.reason ?? "", op.func ?? ""];
    callOf.set(op.seq, add("op", op, who.program || who.comm || "?", words));
  }
  for (const wait of trace.waits) {
    const call = callOf.get(wait.op);
    const shown = add("wait", wait, call ? call.lane : "?", [wait.kind, wait.point, wait.lock ?? ""]);
    shown.call = call;
  }
  for (const lock of trace.locks) {
    const lane = BLOCK_LOCK.test(lock.lock) ? "locks of blocks" : `lock ${lock.lock}`;
    add("lock", lock, lane, ["lock", lock.lock]).call = callOf.get(lock.op);
  }
  for (const uevent of trace.uevents) {
    add("uevent", uevent, "uevents", ["uevent", uevent.action, trace.paths[uevent.devpath]]);
  }
  for (const log of trace.log) {
    add("log", log, "kernel log", ["log", log.text]);
  }
  for (const shown of all) {
    if (shown.under) shown.end = lastTime;
  }
  all.sort((a, b) => a.from - b.from || a.to - b.to);
  all.forEach((shown, index) => { shown.index = index; });
  // A name that is not there, and a reader that does not wait, are no refusals worth a look.
  const isRefused = (shown) => shown.kind === "op" && shown.event.errno !== undefined && shown.event.errno !== "EAGAIN" &&
    !NAMES.has(shown.event.op);

  const firstOp = all.find((shown) => shown.kind === "op");
  const bootEnds = firstOp ? Math.max(0, firstOp.start - (lastTime - firstOp.start) * 0.02) : 0;
  const hasTime = lastTime > bootEnds;

  // Scales ----------------------------------------------------------------------------------------------------------

  let byOrder = !hasTime;
  let visible = [];
  let slots = new Float64Array(trace.end + 2); // of each place: how many visible events begin or end before it

  function isVisible(shown) {
    if (shown.kind === "op") {
      if (NAMES.has(shown.event.op)) return $("names").checked;
      if (READS.has(shown.event.op) && !isRefused(shown)) return $("reads").checked;
    }
    return true;
  }

  const lanes = [];
  function arrange() {
    visible = all.filter(isVisible);
    const used = new Uint8Array(trace.end + 2);
    for (const shown of visible) {
      used[shown.from] = 1;
      used[shown.to] = 1;
    }
    let count = 0;
    for (let at = 0; at <= trace.end + 1; at++) {
      slots[at] = count;
      count += used[at] ?? 0;
    }
    const byName = new Map();
    const order = { op: 0, wait: 0, lock: 1, uevent: 2, log: 3 };
    for (const shown of visible) {
      if (shown.kind === "wait") continue;
      let lane = byName.get(shown.lane);
      if (!lane) byName.set(shown.lane, (lane = { name: shown.lane, kind: shown.kind, free: [], events: [] }));
      lane.events.push(shown);
      if (shown.kind === "op" || shown.kind === "lock") {
        let sub = lane.free.findIndex((until) => until < shown.from);
        if (sub < 0) sub = lane.free.push(-1) - 1;
        lane.free[sub] = shown.to;
        shown.sub = sub;
      }
    }
    lanes.length = 0;
    lanes.push(...[...byName.values()].sort((a, b) => order[a.kind] - order[b.kind]));
    let top = AXIS;
    for (const lane of lanes) {
      lane.top = top;
      lane.height = Math.max(1, lane.free.length) * LINE + PAD;
      top += lane.height;
    }
    height = top;
  }

  const AXIS = 26, LINE = 22, PAD = 10, GUTTER = 180;
  let height = 0, width = 0;
  let view = [0, 1];
  // All of it, from the first call on: what the boot did is to the left.
  const whole = () => (byOrder ? [firstOp ? Math.max(0, slots[firstOp.from] - 1) : 0, slots[trace.end + 1] + 1] : [bootEnds, lastTime + (lastTime - bootEnds) * 0.02 || 1]);
  const x = (value) => GUTTER + ((value - view[0]) / (view[1] - view[0])) * (width - GUTTER);
  const value = (pixel) => view[0] + ((pixel - GUTTER) / (width - GUTTER)) * (view[1] - view[0]);
  const begins = (shown) => (byOrder ? slots[shown.from] : shown.start);
  const ends = (shown) => (byOrder ? slots[shown.to] + 0.8 : shown.end);

  // The memory map --------------------------------------------------------------------------------------------------

  // Columns are blocks, or runs of blocks with the same history. Each has its changes: [place, state, zone, nodes].
  const spans = [...trace.blocks, ...trace.dax.flatMap((dax) => dax.blocks.map(([first, end]) => ({ first, last: end })))];
  const edges = [...new Set(spans.flatMap((span) => [span.first, span.last + 1]))].sort((a, b) => a - b);
  const covered = (block) => spans.some((span) => span.first <= block && block <= span.last);
  let columns = [];
  for (let i = 0; i + 1 < edges.length; i++) {
    if (covered(edges[i])) columns.push({ first: edges[i], last: edges[i + 1] - 1, changes: [] });
  }
  const blocks = columns.reduce((sum, column) => sum + column.last - column.first + 1, 0);
  if (blocks <= MANY) {
    columns = columns.flatMap((run) =>
      Array.from({ length: run.last - run.first + 1 }, (_, i) => ({ first: run.first + i, last: run.first + i, changes: [] })));
  }
  function columnsIn(first, end) { // the columns of a run of blocks
    let low = 0, high = columns.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (columns[middle].last < first) low = middle + 1; else high = middle;
    }
    const from = low;
    while (low < columns.length && columns[low].first <= end) low++;
    return columns.slice(from, low);
  }
  const GONE = { state: "absent", nodes: [] };
  const stateChanges = [...trace.blocks.map((change) => ({ ...change })), ...trace.boots.map((boot) => ({ at: boot.at, boot: true }))];
  stateChanges.sort((a, b) => a.at - b.at);
  for (const change of stateChanges) {
    for (const column of change.boot ? columns : columnsIn(change.first, change.last)) {
      column.changes.push([change.at, change.boot || !change.state ? GONE : change]);
    }
  }
  function latest(changes, at) { // the last change up to a place
    let low = 0, high = changes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (changes[middle][0] <= at) low = middle + 1; else high = middle;
    }
    return low ? changes[low - 1] : [-1, GONE];
  }
  const rows = new Map();
  const addRow = (label, sort) => {
    if (!rows.has(label)) rows.set(label, { label, sort, changes: [], member: new Set(), cells: [] });
    return rows.get(label);
  };
  for (const change of trace.nodes) addRow(`node${change.node}`, change.node).changes.push([change.at, { present: change.online }]);
  for (const change of trace.blocks) {
    for (const node of change.nodes) {
      for (const column of columnsIn(change.first, change.last)) addRow(`node${node}`, node).member.add(column);
    }
  }
  for (const change of trace.dax) {
    const row = addRow(change.device, 1e6 + rows.size);
    const own = new Set(change.blocks.flatMap(([first, end]) => columnsIn(first, end)));
    own.forEach((column) => row.member.add(column));
    row.changes.push([change.at, { present: change.present, driver: change.driver, own }]);
  }
  const memory = [];
  let zones = {};
  for (const change of trace.memory) {
    zones = Object.fromEntries(Object.entries({ ...zones, ...change.zones }).filter(([, size]) => size));
    memory.push([change.at, { total: change.total, zones }]);
  }

  function buildMap() {
    const ordered = [...rows.values()].sort((a, b) => a.sort - b.sort);
    const tracks = ["90px"];
    const ticks = [];
    columns.forEach((column, i) => {
      const jump = i === 0 || columns[i - 1].last + 1 !== column.first;
      if (jump && i) tracks.push("8px");
      column.track = tracks.length + 1;
      tracks.push("minmax(3px, 1fr)");
      if (jump || (column.first % 16 === 0 && i - last(ticks) >= 8)) ticks.push(i);
    });
    const template = tracks.join(" ");
    $("rows").style.maxWidth = `${120 + columns.length * 17}px`;
    const head = document.createElement("div");
    head.className = "row";
    head.style.gridTemplateColumns = template;
    head.append(document.createElement("b"));
    for (const i of ticks) {
      const tick = document.createElement("small");
      tick.textContent = columns[i].first;
      tick.style.gridColumn = columns[i].track;
      head.append(tick);
    }
    $("rows").append(head);
    for (const row of ordered) {
      const line = (row.line = document.createElement("div"));
      line.className = "row";
      line.dataset.row = row.label;
      line.style.gridTemplateColumns = template;
      const label = document.createElement("b");
      label.textContent = row.label;
      line.append(label);
      for (const column of columns) {
        if (!row.member.has(column)) continue;
        const cell = document.createElement("div");
        cell.style.gridColumn = column.track;
        cell.dataset.first = column.first;
        cell.dataset.last = column.last;
        line.append(cell);
        row.cells.push({ column, cell, shown: null });
      }
      $("rows").append(line);
    }
    const seen = new Map();
    for (const change of trace.blocks) {
      if (change.state) seen.set(change.state === "online" ? `online ${change.zone ?? "in several zones"}` : change.state, change);
    }
    const keys = [...seen].sort(([a], [b]) => (a < b ? 1 : -1));
    for (const [text, change] of [...keys, ["removed", { state: "absent" }]]) {
      const item = document.createElement("li");
      const key = document.createElement("i");
      key.className = `key ${change.state} zone-${change.zone ?? ""}`;
      item.append(key, text);
      $("legend").append(item);
    }
  }

  const gib = (kb) => `${+(kb / (1 << 20)).toFixed(3)} GiB`;
  function showMap(at) {
    for (const row of rows.values()) {
      const [, how] = latest(row.changes, at);
      const isNode = row.label.startsWith("node");
      row.line.classList.toggle("gone", !how.present);
      row.line.title = isNode ? "" : how.present ? `driver: ${how.driver ?? "none"}` : "";
      for (const place of row.cells) {
        const [since, status] = latest(place.column.changes, at);
        const here = isNode ? status.nodes.includes(row.sort) : (how.own?.has(place.column) ?? false);
        const state = here ? status.state : "absent";
        const zone = here && status.zone ? status.zone : "";
        const shown = `${state} ${zone} ${since === at}`;
        if (shown === place.shown) continue;
        place.shown = shown;
        const { first, last: end } = place.column;
        place.cell.className = `cell ${state} zone-${zone}${here && since === at && since > 0 ? " changed" : ""}`;
        place.cell.dataset.state = state;
        place.cell.dataset.zone = zone;
        place.cell.title = `memory${first}${end > first ? ` to memory${end}` : ""}: ${state === "absent" ? "removed" : state} ${zone}`;
      }
    }
    const [, sizes] = latest(memory, at);
    $("total").textContent = sizes.total === undefined ? "" :
      `MemTotal ${gib(sizes.total)} (${Object.entries(sizes.zones).map(([zone, kb]) => `${zone} ${gib(kb)}`).join(", ")})`;
  }

  // The moment that is shown ----------------------------------------------------------------------------------------

  let now = 0; // a place
  let nowTime = 0;
  let selected = null;
  let hovered = null;
  const times = new Float64Array(trace.end + 1); // of each place: the time when it had happened
  {
    const note = (at, time) => { if (at >= 0 && at <= trace.end) times[at] = Math.max(times[at], time); };
    for (const shown of all) {
      note(shown.from, shown.start);
      note(shown.to, shown.end);
    }
    for (const list of [trace.boots, trace.blocks, trace.nodes, trace.dax, trace.memory]) for (const change of list) note(change.at, change.time);
    for (let at = 1; at <= trace.end; at++) times[at] = Math.max(times[at], times[at - 1]);
  }
  function placeAt(time) { // the last place that had happened at a time
    let low = 0, high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time) low = middle + 1; else high = middle;
    }
    return Math.max(0, low - 1);
  }
  function placeOfSlot(slot) {
    let low = 0, high = trace.end + 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (slots[middle] <= slot) low = middle + 1; else high = middle;
    }
    return Math.min(trace.end, Math.max(0, low - 1));
  }
  function goTo(at, time = times[at]) {
    now = Math.max(0, Math.min(trace.end, at));
    nowTime = time;
    $("now").textContent = `${time.toFixed(6)} s`;
    $("when").value = now;
    showMap(now);
    draw();
  }

  function select(shown, scroll = true) {
    selected = shown;
    showDetails();
    if (!shown) return draw();
    if (scroll) {
      const [from, to] = view;
      const middle = begins(shown);
      if (middle < from || middle > to) {
        const half = (to - from) / 2;
        view = [middle - half, middle + half];
      }
    }
    for (const line of document.querySelectorAll("tr.selected")) line.classList.remove("selected");
    shown.line?.classList.add("selected");
    goTo(shown.to, shown.end);
  }

  // Words -----------------------------------------------------------------------------------------------------------

  const quoted = (text) => (text === undefined ? "" : JSON.stringify(text));
  const ms = (seconds) => (seconds * 1000).toFixed(3);
  function facts(shown) {
    const { kind, event } = shown;
    const took = event.duration === undefined ? (shown.under ? "not ended" : "") : `${ms(event.duration)} ms`;
    if (kind === "op") {
      const who = process(event);
      return {
        title: `${event.op} ${file(trace.paths[event.path])} ${quoted(event.data)}`,
        why: event.errno ? `${event.errno}: ${event.reason} [${event.func}]` : "",
        who: `${who.program}${who.comm === who.program ? "" : ` (${who.comm})`} ${who.pid}${who.pid === who.tgid ? "" : ` of process ${who.tgid}`}, uid ${who.uid}`,
        path: trace.paths[event.path], result: event.result === undefined ? "" : String(event.result), took,
      };
    }
    const by = shown.call ?? callOf.get(event.op);
    const cause = by ? `${process(by.event).comm} ${process(by.event).pid}: ${by.event.op} ${trace.paths[by.event.path]} ${quoted(by.event.data)}` : "";
    if (kind === "wait") {
      const what = event.lock ? `waits for ${event.lock}` : { sleep: "latency of", preempt: "stands at" }[event.kind] ?? "waits in";
      return { title: event.lock ? what : `${what} ${event.point}`, point: event.point, call: cause, took };
    }
    if (kind === "lock") return { title: `holds ${event.lock}`, call: cause, took };
    if (kind === "uevent") {
      const path = trace.paths[event.devpath];
      const more = event.count ? ` and ${event.count - 1} more` : "";
      const env = Object.entries(event.env ?? {}).map(([key, said]) => `${key}=${said}`).join(" ");
      return { title: `${event.action} ${name(path)}${more}`, devpath: path, SEQNUM: String(event.seq), environment: env, call: cause };
    }
    return { title: event.text, level: String(event.level), call: cause };
  }
  function showDetails() {
    const box = $("details");
    box.replaceChildren();
    box.classList.toggle("refused", !!selected && isRefused(selected));
    if (!selected) {
      box.append("Choose an event to see all of it.");
      return;
    }
    const { title, why, ...rest } = facts(selected);
    const heading = document.createElement("strong");
    heading.textContent = title;
    box.append(heading);
    if (why) {
      const line = document.createElement("div");
      line.className = "why";
      line.textContent = why;
      box.append(line);
    }
    const list = document.createElement("dl");
    const waits = selected.kind === "op" ? trace.waits.filter((wait) => wait.op === selected.event.seq) : [];
    const waited = waits.filter((wait) => wait.lock).reduce((sum, wait) => sum + (wait.duration ?? 0), 0);
    for (const [term, said] of Object.entries({ time: `${selected.start.toFixed(6)} s`, ...rest, "waited for locks": waited ? `${ms(waited)} ms` : "" })) {
      if (!said) continue;
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = term;
      dd.textContent = said;
      list.append(dt, dd);
    }
    box.append(list);
  }

  // Drawing ---------------------------------------------------------------------------------------------------------

  const canvas = $("canvas");
  const pen = canvas.getContext("2d");
  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    colours = new Proxy({}, { get: (_, key) => style.getPropertyValue(`--${key}`).trim() });
    const kept = {};
    for (const key of ["page", "panel", "line", "text", "dim", "accent", "bad", "cursor", "write", "read", "open", "name", "wait", "sleep", "preempt", "lock", "add", "remove", "online", "offline", "log"]) kept[key] = colours[key];
    colours = kept;
  }
  let query = "";
  const matches = (shown) => !query || shown.words.includes(query) || (shown.call?.words.includes(query) ?? false);
  let pending = false;
  function draw() {
    if (!pending) {
      pending = true;
      requestAnimationFrame(() => { pending = false; paint(); });
    }
  }
  function resize() {
    width = $("lanes").clientWidth;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }
  const MONO = "11px ui-monospace, monospace";
  function step(span) { // a round distance between two marks
    const rough = span / Math.max(2, (width - GUTTER) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  }
  function paintAxis() {
    pen.font = MONO;
    pen.fillStyle = colours.dim;
    const every = byOrder ? Math.max(1, Math.round(step(view[1] - view[0]))) : step(view[1] - view[0]);
    for (let mark = Math.ceil(view[0] / every) * every; mark <= view[1]; mark += every) {
      const at = x(mark);
      pen.fillStyle = colours.line;
      pen.fillRect(at, AXIS - 6, 1, height);
      pen.fillStyle = colours.dim;
      const text = byOrder ? `#${mark}` : every >= 1 ? `${mark.toFixed(0)} s` : every >= 0.001 ? `${+(mark * 1000).toFixed(1)} ms` : `${+(mark * 1e6).toFixed(0)} us`;
      pen.fillText(text, at + 3, AXIS - 10);
    }
  }
  function hatch(left, top, wide, high, colour) {
    pen.save();
    pen.beginPath();
    pen.rect(left, top, wide, high);
    pen.clip();
    pen.fillStyle = colours.page;
    pen.fillRect(left, top, wide, high);
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    for (let at = Math.max(left, GUTTER) - high - ((Math.max(left, GUTTER) - left) % 6); at < Math.min(left + wide, width) + high; at += 6) {
      pen.moveTo(at, top + high);
      pen.lineTo(at + high, top);
    }
    pen.stroke();
    pen.restore();
    pen.lineWidth = 1;
    pen.strokeStyle = colour;
    if (wide > 3) pen.strokeRect(left + 0.5, top + 0.5, wide - 1, high - 1);
  }
  function label(text, left, top, room, colour) {
    if (room < 24) return;
    pen.save();
    pen.beginPath();
    pen.rect(left, top, room, LINE);
    pen.clip();
    pen.fillStyle = colour;
    pen.font = MONO;
    pen.fillText(text, left + 4, top + 11);
    pen.restore();
  }
  const UEVENT = { add: "add", online: "online", offline: "offline", remove: "remove" };
  const LEVEL = (level) => (level <= 3 ? colours.bad : level === 4 ? colours.offline : colours.log);
  function paint() {
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, width, height);
    lanes.forEach((lane, i) => {
      pen.fillStyle = i % 2 ? colours.page : colours.panel;
      pen.fillRect(0, lane.top, width, lane.height);
    });
    paintAxis();
    for (const lane of lanes) paintLane(lane);
    for (const shown of visible) {
      if (shown.kind === "wait" && shown.call && isVisible(shown.call)) paintWait(shown);
    }
    paintRefused();
    // the gutter, over what began before the view
    lanes.forEach((lane, i) => {
      pen.fillStyle = i % 2 ? colours.page : colours.panel;
      pen.fillRect(0, lane.top, GUTTER - 2, lane.height);
      pen.fillStyle = colours.text;
      pen.font = lane.kind === "op" ? "600 12px system-ui, sans-serif" : "12px system-ui, sans-serif";
      pen.fillText(lane.name.length > 26 ? `${lane.name.slice(0, 25)}…` : lane.name, 10, lane.top + 18);
    });
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, GUTTER - 2, AXIS);
    pen.fillStyle = colours.line;
    pen.fillRect(GUTTER - 2, 0, 1, height);
    const at = x(byOrder ? slots[now] + 0.8 : nowTime);
    if (at >= GUTTER - 1) {
      pen.fillStyle = colours.cursor;
      pen.fillRect(at, 0, 1.5, height);
      pen.beginPath();
      pen.moveTo(at - 4, 0);
      pen.lineTo(at + 5.5, 0);
      pen.lineTo(at + 0.75, 7);
      pen.fill();
    }
    if (selected) outline(selected, colours.cursor);
    if (hovered && hovered !== selected) outline(hovered, colours.text);
  }
  function box(shown) {
    const owner = shown.kind === "wait" && shown.call ? shown.call : shown;
    const lane = lanes.find((one) => one.name === owner.lane && (one.kind === owner.kind));
    if (!lane) return null;
    const least = isRefused(shown) ? 4 : 2;
    const left = x(begins(shown));
    const wide = Math.max(least, x(ends(shown)) - left);
    return { left, wide, top: lane.top + PAD / 2 + owner.sub * LINE, high: LINE - 6 };
  }
  function outline(shown, colour) {
    const place = box(shown);
    if (!place) return;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.strokeRect(place.left - 1, place.top - 1, place.wide + 2, place.high + 2);
    pen.lineWidth = 1;
  }
  function paintLane(lane) {
    let painted = -1; // many ticks in one pixel are one
    lane.events.forEach((shown, i) => {
      const left = x(begins(shown)), right = x(ends(shown));
      if (right < GUTTER - 2 || left > width) return;
      const { event, kind } = shown;
      const top = lane.top + PAD / 2 + shown.sub * LINE, high = LINE - 6;
      const wide = Math.max(2, right - left);
      pen.globalAlpha = matches(shown) ? 1 : 0.15;
      if (kind === "op") {
        const colour = isRefused(shown) ? colours.bad : NAMES.has(event.op) ? colours.name : colours[event.op] ?? colours.write;
        pen.fillStyle = colour;
        pen.fillRect(left, top, wide, high);
        const text = `${event.op} ${file(trace.paths[event.path])} ${event.op === "write" ? quoted(event.data) : ""}`;
        label(text, Math.max(left, GUTTER), top, Math.min(right, width) - Math.max(left, GUTTER),
          event.op === "write" ? "#ffffff" : colours.text);
      } else if (kind === "lock") {
        pen.fillStyle = colours.lock;
        pen.fillRect(left, top + 4, wide, high - 8);
      } else {
        const next = lane.events[i + 1];
        const room = (next ? x(begins(next)) : width) - left;
        if (left - painted < 0.7 && matches(shown) && room < 24) return;
        painted = left;
        pen.fillStyle = kind === "log" ? LEVEL(event.level) : colours[UEVENT[event.action] ?? "accent"];
        pen.fillRect(left, top, Math.max(2, Math.min(4, room - 1)), high);
        const more = event.count ? ` ×${event.count}` : "";
        const text = kind === "log" ? event.text : `${event.action} ${name(trace.paths[event.devpath])}${more}`;
        label(text, Math.max(left, GUTTER) + 3, top, room - 6, colours.text);
      }
      pen.globalAlpha = 1;
    });
  }
  function paintWait(shown) {
    const place = box(shown);
    if (!place || place.left > width || place.left + place.wide < GUTTER) return;
    pen.globalAlpha = matches(shown) ? 1 : 0.15;
    const { kind } = shown.event;
    if (kind === "lock" || kind === "event") {
      hatch(place.left, place.top, place.wide, place.high, colours.wait);
      if (shown.event.lock) {
        const left = Math.max(place.left, GUTTER);
        const room = Math.min(place.left + place.wide, width) - left;
        const text = `waits for ${shown.event.lock}`;
        pen.font = MONO;
        if (room > pen.measureText(text).width + 16) {
          pen.fillStyle = colours.page;
          pen.fillRect(left + 4, place.top + 2, pen.measureText(text).width + 8, place.high - 4);
          label(text, left + 4, place.top, room, colours.wait);
        }
      }
    } else {
      pen.fillStyle = kind === "sleep" ? colours.sleep : colours.preempt;
      pen.fillRect(place.left, place.top + place.high - 3, Math.max(1, place.wide), 3);
    }
    pen.globalAlpha = 1;
  }
  function paintRefused() {
    let free = -1e9;
    for (const shown of visible) {
      if (!isRefused(shown)) continue;
      const place = box(shown);
      if (!place) continue;
      const right = x(ends(shown));
      if (right < GUTTER || place.left > width) continue;
      pen.globalAlpha = matches(shown) ? 1 : 0.15;
      pen.fillStyle = colours.bad;
      pen.fillRect(Math.max(place.left, right - 4), place.top - 2, 4, place.high + 4);
      pen.font = "600 11px system-ui, sans-serif";
      const text = shown.event.errno;
      const wide = pen.measureText(text).width + 8;
      const left = Math.min(right + 2, width - wide);
      if (left > free || place.top !== paintRefused.top) {
        pen.fillRect(left, place.top, wide, place.high);
        pen.fillStyle = colours.page;
        pen.fillText(text, left + 4, place.top + 12);
        free = left + wide;
        paintRefused.top = place.top;
      }
      pen.globalAlpha = 1;
    }
  }

  // Mouse -----------------------------------------------------------------------------------------------------------

  function hit(px, py) { // the event under the mouse; within 4 pixels of a thin one
    const lane = lanes.find((one) => one.top <= py && py < one.top + one.height);
    if (!lane || px < GUTTER) return null;
    let found = null, distance = 5;
    for (const shown of visible) {
      const owner = shown.kind === "wait" ? shown.call : shown;
      if (!owner || owner.lane !== lane.name || owner.kind !== lane.kind) continue;
      const place = box(shown);
      if (!place || py < place.top - 3 || py > place.top + place.high + 3) continue;
      const away = Math.max(place.left - px, px - place.left - place.wide, 0);
      const nested = shown.kind === "wait" && !["sleep", "preempt"].includes(shown.event.kind);
      if (away < distance || (away === 0 && nested)) {
        found = shown;
        distance = away;
      }
    }
    return found;
  }
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  let dragged = null;
  $("lanes").addEventListener("pointermove", (event) => {
    const [px, py] = at(event);
    if (dragged) {
      const by = ((dragged.px - px) / (width - GUTTER)) * (view[1] - view[0]);
      dragged.moved ||= Math.abs(dragged.px - px) > 3;
      if (dragged.moved) {
        view = [dragged.view[0] + by, dragged.view[1] + by];
        return draw();
      }
    }
    if (px >= GUTTER) {
      const where = value(px);
      if (byOrder) goTo(placeOfSlot(where)); else goTo(placeAt(where), where);
    }
    hovered = hit(px, py);
    showTip(px, py);
  });
  $("lanes").addEventListener("pointerleave", () => {
    hovered = null;
    $("tip").hidden = true;
    if (selected) goTo(selected.to, selected.end); else draw();
  });
  $("lanes").addEventListener("pointerdown", (event) => {
    const [px] = at(event);
    dragged = { px, view: [...view], moved: false };
  });
  window.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const { moved } = dragged;
    dragged = null;
    if (!moved && event.target === canvas) select(hit(...at(event)), false);
  });
  $("lanes").addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    const [px] = at(event);
    if (event.ctrlKey) return zoom(event.deltaY > 0 ? 1.25 : 0.8, value(px));
    const by = ((event.deltaX || event.deltaY) / (width - GUTTER)) * (view[1] - view[0]);
    view = [view[0] + by, view[1] + by];
    draw();
  }, { passive: false });
  function showTip(px, py) {
    const tip = $("tip");
    tip.hidden = !hovered;
    if (!hovered) return;
    const { title, why, who, path, took, call } = facts(hovered);
    tip.replaceChildren();
    const lines = [["strong", title], ["div", who], ["div", path ?? call], ["div", `${hovered.start.toFixed(6)} s${took ? `, ${took}` : ""}`], ["why", why]];
    for (const [what, text] of lines) {
      if (!text) continue;
      const line = document.createElement(what === "strong" ? "strong" : "div");
      if (what === "why") line.className = "why";
      line.textContent = text;
      tip.append(line);
    }
    tip.style.left = `${Math.min(px + 14, Math.max(0, width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${py + 18 + tip.offsetHeight > height ? Math.max(0, py - tip.offsetHeight - 10) : py + 18}px`;
  }

  // Controls and keys -----------------------------------------------------------------------------------------------

  function zoom(by, around = (view[0] + view[1]) / 2) {
    const [first, end] = whole();
    const span = Math.min((view[1] - view[0]) * by, end - first);
    const share = (around - view[0]) / (view[1] - view[0]);
    view = [around - span * share, around + span * (1 - share)];
    if (span >= end - first) view = [first, end];
    draw();
  }
  function setScale(order) {
    byOrder = order;
    $("by-order").setAttribute("aria-pressed", order);
    $("by-time").setAttribute("aria-pressed", !order);
    view = whole();
    draw();
  }
  function nextRefused(by) {
    const refused = visible.filter((shown) => isRefused(shown) && matches(shown));
    if (!refused.length) return;
    const from = selected ? selected.index : by > 0 ? -1 : Infinity;
    const ahead = by > 0 ? refused.find((shown) => shown.index > from) : refused.findLast((shown) => shown.index < from);
    select(ahead ?? (by > 0 ? refused[0] : last(refused)));
  }
  function move(by) {
    const shown = visible.filter(matches);
    if (!shown.length) return;
    const here = shown.indexOf(selected);
    if (here >= 0) return select(shown[Math.max(0, Math.min(shown.length - 1, here + by))]);
    const next = shown.findIndex((one) => one.from > now);
    select(by > 0 ? shown[next < 0 ? shown.length - 1 : next] : shown[Math.max(0, (next < 0 ? shown.length : next) - 1)]);
  }
  function moveLane(by) { // the nearest event of the lane above or below
    const owner = selected?.kind === "wait" ? selected.call : selected;
    const here = owner ? lanes.findIndex((lane) => lane.name === owner.lane && lane.kind === owner.kind) : -1;
    for (let i = here + by; i >= 0 && i < lanes.length; i += by) {
      const near = lanes[i].events.filter(matches);
      if (!near.length) continue;
      const place = selected ? selected.from : now;
      return select(near.reduce((best, one) => (Math.abs(one.from - place) < Math.abs(best.from - place) ? one : best)));
    }
  }
  const KEYS = {
    ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => moveLane(1), ArrowUp: () => moveLane(-1),
    Home: () => select(visible.find(matches) ?? null), End: () => select(visible.findLast(matches) ?? null),
    r: () => nextRefused(1), R: () => nextRefused(-1), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
    0: () => { view = whole(); draw(); }, Escape: () => select(null), t: () => setScale(!byOrder),
  };
  $("lanes").addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : KEYS[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== $("search")) {
      event.preventDefault();
      $("search").focus();
    }
  });
  $("search").addEventListener("input", () => {
    query = $("search").value.trim().toLowerCase();
    const count = query ? visible.filter(matches).length : 0;
    $("found").textContent = query ? `${count} found` : "";
    fillTable();
    draw();
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      move(event.shiftKey ? -1 : 1);
      $("lanes").focus();
    } else if (event.key === "Escape") {
      $("search").value = "";
      $("search").dispatchEvent(new Event("input"));
      $("lanes").focus();
    }
  });
  $("when").max = trace.end;
  $("when").addEventListener("input", () => goTo(Number($("when").value)));
  $("by-time").addEventListener("click", () => setScale(false));
  $("by-order").addEventListener("click", () => setScale(true));
  $("in").addEventListener("click", () => zoom(0.6));
  $("out").addEventListener("click", () => zoom(1 / 0.6));
  $("all").addEventListener("click", KEYS[0]);
  $("refused").addEventListener("click", () => nextRefused(1));
  $("previous-refused").addEventListener("click", () => nextRefused(-1));
  for (const id of ["reads", "names"]) $(id).addEventListener("change", () => { arrange(); view = whole(); fillTable(); resize(); });
  $("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    readColours();
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });

  // The table -------------------------------------------------------------------------------------------------------

  function fillTable() {
    const body = $("table");
    body.replaceChildren();
    if (!$("table-of-events").open) return;
    const lines = document.createDocumentFragment();
    for (const shown of visible) {
      if (!matches(shown)) continue;
      const { kind, event } = shown;
      const said = facts(shown);
      const line = (shown.line = document.createElement("tr"));
      const by = kind === "op" ? shown : shown.call ?? callOf.get(event.op);
      const who = by ? `${process(by.event).program} ${process(by.event).pid}` : "";
      const what = kind === "op" ? event.op : kind;
      const where = kind === "op" ? trace.paths[event.path] : kind === "uevent" ? said.devpath : said.title;
      const data = kind === "op" ? quoted(event.data) : kind === "uevent" ? said.title : "";
      const result = kind === "op" ? said.why || said.result : "";
      const taken = event.duration === undefined ? (shown.under ? "not ended" : "") : ms(event.duration);
      for (const text of [shown.start.toFixed(6), taken, who, what, where, data, result]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        line.append(cell);
      }
      if (isRefused(shown)) {
        line.className = "refused";
        line.lastChild.className = "why";
      }
      line.addEventListener("click", () => select(shown));
      lines.append(line);
    }
    body.append(lines);
  }
  $("table-of-events").addEventListener("toggle", fillTable);

  // Start -----------------------------------------------------------------------------------------------------------

  const calls = trace.ops.length;
  const refusedCalls = all.filter(isRefused).length;
  const lockWaits = trace.waits.filter((wait) => wait.lock).length;
  const many = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
  $("summary").textContent = [`machine ${trace.machine}`, `kernel ${trace.kernel}`, `${lastTime.toFixed(3)} s`, many(calls, "call"),
    `${refusedCalls} refused`, many(lockWaits, "lock wait"), many(trace.uevents.reduce((sum, one) => sum + (one.count ?? 1), 0), "uevent"),
    many(trace.log.length, "log message")].join(" · ");
  $("refused").textContent = `${refusedCalls} refused ›`;
  $("refused").classList.toggle("some", refusedCalls > 0);
  readColours();
  buildMap();
  arrange();
  setScale(byOrder);
  showDetails();
  resize();
  window.addEventListener("resize", resize);
  goTo(firstOp ? Math.max(0, firstOp.from - 1) : trace.end, firstOp ? firstOp.start : undefined);
})();
