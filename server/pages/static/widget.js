// <star-rating inference-id token>: stars under an answer, sent to the gateway that this script came from. What can be
// set on it stands in server/README.md. /widget.js has this without indentation and comments, in at most 5,000 bytes.
(() => {
  const home = (document.currentScript ?? document.querySelector('script[src$="/widget.js"]'))?.src ?? location.href;
  // A sheet that is made by script is no inline style, which the policy of the page around may forbid.
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { display: inline-flex; flex-wrap: wrap; align-items: center; gap: .2em .7em; }
    :host([hidden]) { display: none; }
    [role=radio] {
      display: inline-block; min-width: 1.2em; text-align: center; cursor: pointer;
      font-size: var(--star-rating-size, 1.6rem); line-height: 1.2; color: var(--star-rating-off, currentColor);
    }
    [role=radio]::before { content: "☆"; }
    .on, :hover > :not(:hover ~ *) { color: var(--star-rating-on, light-dark(#a86f00, #f0b429)); }
    .on::before, :hover > :not(:hover ~ *)::before { content: "★"; }
    :focus-visible { outline: 3px solid var(--star-rating-focus, light-dark(#3457d5, #8ba4ff)); border-radius: .15em; }
    [part~=error] { color: var(--star-rating-error, light-dark(#b3261e, #ff8a80)); }
  `);
  const make = (role) => {
    const element = document.createElement("span");
    element.role = role;
    return element;
  };

  class StarRating extends HTMLElement {
    static observedAttributes = ["inference-id", "label", "stars"];
    #group = make("radiogroup");
    #status = make("status");
    #stars = [1, 2, 3, 4, 5].map((number) => {
      const star = make("radio");
      star.ariaLabel = `${number} of 5 stars`;
      star.onclick = () => this.#choose(number);
      return star;
    });
    #chosen = 0;
    #busy = false;
    #timer;

    constructor() {
      super();
      const root = this.attachShadow({ mode: "open", delegatesFocus: true });
      root.adoptedStyleSheets = [sheet];
      root.append(this.#group, this.#status);
      this.#group.part = "stars";
      this.#group.append(...this.#stars);
      this.#group.onkeydown = (event) => this.#key(event);
      this.#tell("idle", "");
      this.#draw();
    }

    get stars() {
      return Number(this.getAttribute("stars"));
    }

    attributeChangedCallback(name, before, now) {
      if (name === "inference-id" && before && before !== now) {
        clearTimeout(this.#timer);
        this.removeAttribute("stars");
        this.#tell("idle", "");
      }
      if (name === "stars") this.#chosen = this.stars;
      this.#draw();
    }

    #draw() {
      this.#group.ariaLabel = this.getAttribute("label") ?? "Rate this answer";
      this.#stars.forEach((star, place) => {
        star.className = place < this.#chosen ? "on" : "";
        star.part = `star ${star.className}`;
        star.ariaChecked = place + 1 === this.#chosen;
        star.tabIndex = place === Math.max(this.#chosen - 1, 0) ? 0 : -1;
      });
    }

    #tell(state, words, event, detail) {
      this.#status.part = `status ${state}`;
      this.#status.textContent = words;
      if (event) this.dispatchEvent(new CustomEvent(event, { bubbles: true, composed: true, detail }));
    }

    // Arrows pass over stars that are not meant, so what they choose is sent after a pause.
    #key(event) {
      const { key } = event;
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (step) this.#choose(this.#chosen ? ((this.#chosen + step + 4) % 5) + 1 : 1, 700);
      else if (/^[1-5]$/.test(key)) this.#choose(+key);
      else if (key === " " || key === "Enter") this.#choose(this.#chosen || 1);
      else return;
      this.#stars[this.#chosen - 1].focus();
      event.preventDefault();
      event.stopPropagation();
    }

    #choose(number, wait) {
      clearTimeout(this.#timer);
      this.#chosen = number;
      this.#draw();
      this.#timer = setTimeout(() => this.#send(), wait);
    }

    async #send() {
      const stars = this.#chosen;
      const inferenceId = this.getAttribute("inference-id");
      if (this.#busy || stars === this.stars) return;
      this.#busy = true;
      this.#tell("sending", "Sending …");
      let status = 0;
      let message = "";
      try {
        const server = this.getAttribute("server")?.replace(/\/*$/, "/") ?? home;
        const answer = await fetch(new URL("v1/feedback", server), {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ inference_id: inferenceId, feedback_token: this.getAttribute("token"), rating: stars }),
          credentials: "omit",
          keepalive: true,
        });
        ({ status } = answer);
        if (!answer.ok) ({ message } = (await answer.json()).error);
      } catch (error) {
        message = String(error);
      }
      this.#busy = false;
      if (inferenceId !== this.getAttribute("inference-id")) return this.#send();
      const later = this.#chosen;
      if (message) {
        this.#chosen = this.stars;
        this.#draw();
        const words = /expired/.test(message) ? "The time to rate this answer is over."
          : !status ? "No connection. Please try again."
          : status > 499 || status === 429 ? "It cannot be kept just now. Please try again."
          : "This rating was not accepted.";
        return this.#tell("error", words, "rating-failed", { inferenceId, status, message });
      }
      this.setAttribute("stars", stars);
      this.#tell("thanks", "Thank you.", "rated", { inferenceId, stars });
      if (later !== stars) this.#choose(later);
    }
  }

  if (!customElements.get("star-rating")) customElements.define("star-rating", StarRating);
})();
