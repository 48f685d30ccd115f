"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const exported = JSON.parse(byId("data").textContent); // null: a server is asked
  const KEYS = {
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", t: "tie", ArrowDown: "both_bad", b: "both_bad",
    Backspace: "undo", u: "undo", "?": "help", h: "help",
  };
  const SAID = { left: "first image", right: "second image", tie: "tie", both_bad: "both bad" };
  const TOO_SOON = 150; // ms after an image came: such a key was meant for the one before

  const memory = (() => { // what the browser keeps, and where it keeps nothing what this page does
    const here = new Map();
    let works = true;
    try { localStorage.setItem("evalkit", "1"); localStorage.removeItem("evalkit"); } catch { works = false; }
    return {
      works,
      get: (key) => (works ? localStorage.getItem(key) : here.get(key) ?? null),
      set: (key, value) => { if (works) localStorage.setItem(key, value); else here.set(key, value); },
    };
  })();

  // Where votes go. Both give the same state: voter, done, of, undo, item, next, repeated.

  function server() {
    async function ask(address, body) {
      const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
      let answer;
      try { answer = await fetch(address, options); } catch { throw new Error("The server cannot be reached: this was not kept. Is it still running?"); }
      const value = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
      if (!answer.ok) throw new Error(value.error);
      return value;
    }
    return {
      key: "evalkit voter",
      state: (voter) => ask(`/state?voter=${encodeURIComponent(voter)}`),
      vote: (voter, item, outcome, seconds) => ask("/vote", { voter, item, outcome, seconds }),
      undo: (voter, done) => ask("/undo", { voter, done }),
    };
  }

  function file() {
    const key = `evalkit votes ${exported.export}`;
    const nameOf = (text) => text.split(/\s+/).filter(Boolean).join(" ");
    const read = (voter) => JSON.parse(memory.get(`${key} ${voter}`) ?? "[]");

    function planOf(voter) { // FNV-1a: the same name gets the same order on every device
      let hash = 0x811c9dc5;
      for (const letter of new TextEncoder().encode(voter)) hash = Math.imul(hash ^ letter, 0x01000193) >>> 0;
      return exported.plans[hash % exported.plans.length];
    }

    function standing(votes) {
      const left = [];
      for (const vote of votes) if (vote.outcome === "undo") left.pop(); else left.push(vote);
      return left;
    }

    function add(voter, vote) {
      const votes = read(voter);
      votes.push({ time: new Date().toISOString(), voter, ...vote });
      memory.set(`${key} ${voter}`, JSON.stringify(votes));
    }

    function item(plan, number) {
      if (number >= plan.length) return null;
      const [prompt, left, right] = plan[number];
      return { id: String(number), prompt: exported.prompts[prompt], left: `images/${left}.png`, right: `images/${right}.png` };
    }

    function repeated(plan, votes) {
      const first = new Map();
      const result = { same: 0, of: 0 };
      votes.forEach((vote, number) => {
        const [, left, right] = plan[number];
        const pair = [left, right].sort().join();
        const answer = { left, right }[vote.outcome] ?? "tie"; // both bad is one, as in the ratings
        if (first.has(pair)) { result.of += 1; result.same += first.get(pair) === answer; } else first.set(pair, answer);
      });
      return result;
    }

    async function state(text) {
      const voter = nameOf(text);
      const [plan, votes] = [planOf(voter), standing(read(voter))];
      const done = votes.length;
      return {
        voter, done, of: plan.length, undo: done > 0, item: item(plan, done), next: item(plan, done + 1),
        repeated: done < plan.length ? null : repeated(plan, votes),
      };
    }

    return {
      key: `${key}: voter`,
      state,
      async vote(voter, id, outcome, seconds) {
        const [plan, done] = [planOf(voter), standing(read(voter)).length];
        if (String(done) === id) {
          const [, left, right] = plan[done];
          add(voter, { left, right, outcome, seconds: Math.round(seconds * 1000) / 1000 });
        }
        return state(voter);
      },
      async undo(voter, done) {
        const last = standing(read(voter));
        if (last.length === done && done) add(voter, { left: last[done - 1].left, right: last[done - 1].right, outcome: "undo", seconds: 0 });
        return state(voter);
      },
      save(voter) {
        const text = JSON.stringify({ export: exported.export, votes: read(voter) }, null, 1);
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
        link.download = `votes-${exported.export}-${voter.replace(/[^\p{L}\p{N}]+/gu, "_")}.json`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      },
    };
  }

  const source = exported ? file() : server();
  let now = null; // the state that is shown
  let seen = 0; // when both of its images were, 0 before
  let busy = false;
  const images = new Map(); // by address, loaded ahead

  function load(address) {
    if (!images.has(address)) {
      const image = new Image();
      image.alt = "";
      image.onload = () => image.classList.toggle("small", image.naturalWidth < 200);
      image.src = address;
      images.set(address, image);
    }
    return images.get(address);
  }

  function tell(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }

  function enter() {
    now = null;
    for (const id of ["ask", "end", "foot", "who"]) byId(id).hidden = true;
    byId("start").hidden = false;
    byId("voter").focus();
  }

  async function show(state) {
    now = state;
    seen = 0;
    delete document.body.dataset.ready; // how many votes there are, once what is asked can be seen
    const { item } = state;
    byId("start").hidden = true;
    byId("ask").hidden = !item;
    byId("end").hidden = Boolean(item);
    for (const id of ["foot", "who"]) byId(id).hidden = false;
    byId("name").textContent = state.voter;
    byId("progress").max = Math.max(state.of, 1);
    byId("progress").value = state.done;
    byId("progress-label").textContent = `${state.done} of ${state.of}`;
    byId("undo").disabled = !state.undo;
    byId("save").hidden = !source.save || !state.done;
    byId("save").classList.toggle("main", !item);
    for (const one of document.querySelectorAll(".chosen")) one.classList.remove("chosen");
    if (!item) { finish(state); return; }
    byId("prompt").textContent = item.prompt;
    const sides = [["left", "first image, in full size"], ["right", "second image, in full size"]];
    const both = sides.map(([side, label]) => {
      const link = byId(`${side}-link`);
      link.href = item[side];
      link.setAttribute("aria-label", label);
      link.replaceChildren(load(item[side]));
      return load(item[side]);
    });
    const wanted = new Set([item.left, item.right, state.next?.left, state.next?.right]);
    for (const address of images.keys()) if (!wanted.has(address)) images.delete(address);
    if (state.next) { load(state.next.left); load(state.next.right); }
    try {
      await Promise.all(both.map((image) => image.decode()));
    } catch {
      if (now === state) { for (const side of ["left", "right"]) images.delete(item[side]); tell("An image could not be loaded. Load the page again."); }
      return;
    }
    requestAnimationFrame(() => { if (now === state) { seen = performance.now(); document.body.dataset.ready = state.done; } });
  }

  function finish(state) {
    const { same, of } = state.repeated;
    byId("thanks").textContent = state.done ? `Thank you: ${state.done} ${state.done === 1 ? "vote" : "votes"}.` : "There is nothing to vote on.";
    byId("same").textContent = (of ? `${of === 1 ? "One pair" : `${of} pairs`} came twice, and you gave the same answer to ${same} of them. ` : "")
      + (source.save && state.done ? "Please download your votes and send the file to whoever asked you." : "");
    document.body.dataset.ready = state.done;
    byId("thanks").focus();
  }

  async function run(work, said) {
    busy = true;
    try {
      const state = await work();
      tell(memory.works || !source.save ? "" : "This browser keeps nothing: download your votes before you close the page.");
      byId("status").textContent = said;
      await show(state);
    } catch (error) {
      tell(error.message);
      for (const one of document.querySelectorAll(".chosen")) one.classList.remove("chosen");
    } finally {
      busy = false;
    }
  }

  function vote(outcome) {
    if (busy || !now?.item || !seen) return;
    const time = performance.now() - seen;
    if (time < TOO_SOON) return;
    const { voter, item } = now;
    document.querySelector(`[data-vote=${outcome}]`).classList.add("chosen");
    byId(`${outcome}-link`)?.parentElement.classList.add("chosen");
    run(() => source.vote(voter, item.id, outcome, time / 1000), `Your vote: ${SAID[outcome]}.`);
  }

  function undo() {
    if (!busy && now?.undo) run(() => source.undo(now.voter, now.done), "The last vote is undone.");
  }

  function help() {
    if (byId("keys").open) byId("keys").close(); else byId("keys").showModal();
  }

  function begin(voter) {
    run(async () => {
      const state = await source.state(voter);
      memory.set(source.key, state.voter);
      return state;
    }, "");
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
    const what = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!what || !now || (byId("keys").open && what !== "help")) return;
    event.preventDefault(); // arrows would scroll
    if (event.repeat) return;
    if (what === "help") help(); else if (what === "undo") undo(); else vote(what);
  });
  for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => vote(button.dataset.vote));
  byId("undo").addEventListener("click", undo);
  byId("help").addEventListener("click", help);
  byId("save").addEventListener("click", () => source.save(now.voter));
  byId("change").addEventListener("click", () => { memory.set(source.key, ""); byId("voter").value = ""; enter(); });
  byId("start").addEventListener("submit", (event) => { event.preventDefault(); begin(byId("voter").value); });
  addEventListener("beforeunload", (event) => { if (source.save && !memory.works && now?.done) event.preventDefault(); });

  if (source.save) byId("kept").textContent = "Your votes stay in this browser until you download them, whenever you like.";
  const voter = memory.get(source.key);
  if (voter) begin(voter); else enter();
})();
