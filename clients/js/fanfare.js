// Fanfare's client: hears channels over whatever gets through, each message once and in order. What is public: fanfare.d.ts.
//
// Always true:
// - `#next` is tried beside `#link`, and takes its place once it is subscribed;
// - the cursor never runs ahead of what was heard.

const TRANSPORTS = ['ws', 'sse', 'stream', 'longpoll', 'poll'];

/** After so many short lives a transport counts as blocked. */
const SHORT_LIVES_MAX = 3;
const BACKOFF_MS_MAX = 30_000;
const BLOCKED_MS_MAX = 600_000;
const REMEMBERED_MS = 86_400_000;
const LONGPOLL_S = 25;
const SEEN_MAX = 2_000;

export class Fanfare {
  #url;
  #memory;
  #options;
  #order;
  #channels = new Map();
  #listeners = {};
  #state = 'idle';
  #announced;
  #cursor;
  #sid;
  #token;
  #tokenRefused = false;
  #link;
  #next;
  #lastGood;
  #blocked = {};
  #shortLives = 0;
  #attempt = 0;
  #visitor;
  #dark;
  #backoffMs = 1_000;
  #timers = {};
  #environment = new AbortController();

  constructor(url, key, options = {}) {
    const base = new URL(url, globalThis.location?.href).href.replace(/\/+$/, '');
    this.#url = (face) => `${base}/${face}/${encodeURIComponent(key)}`;
    this.#options = {
      WebSocket: globalThis.WebSocket,
      fetch: globalThis.fetch,
      heartbeat: 25,
      openTimeout: 8,
      pollInterval: 5,
      stable: 5,
      retryBlocked: 5,
      ...options,
    };
    this.#order = (options.transports ?? TRANSPORTS).filter((name) => name !== 'ws' || this.#options.WebSocket);
    if (!this.#order.length) {
      throw new Error('no transport is possible here');
    }
    this.#cursor = options.since;
    for (const name of options.channels ?? []) {
      this.#channels.set(name, { seen: new Set(), known: !!options.since });
    }
    this.#memory = `${this.#url('sub')} ${this.#order}`;
    const { transport, until } = this.#recall(this.#memory) ?? {};
    const at = this.#order.indexOf(transport);
    if (until > Date.now() && at >= 0) {
      this.#lastGood = transport;
      this.#order.slice(0, at).forEach((better) => this.#block(better, SHORT_LIVES_MAX));
    }
    this.#watchEnvironment();
    this.#soon('change', () => this.#change());
  }

  get state() {
    return this.#state;
  }

  get transport() {
    return this.#link?.ready ? this.#link.transport : undefined;
  }

  get cursor() {
    return this.#cursor;
  }

  get dark() {
    return this.#dark;
  }

  get channels() {
    return [...this.#channels.keys()];
  }

  on(event, listener) {
    (this.#listeners[event] ??= new Set()).add(listener);
    return () => this.#listeners[event].delete(listener);
  }

  subscribe(...names) {
    for (const name of names) {
      if (!this.#channels.has(name)) {
        this.#channels.set(name, { seen: new Set(), known: false });
      }
    }
    this.#soon('change', () => this.#change());
  }

  unsubscribe(...names) {
    names.forEach((name) => this.#channels.delete(name));
    this.#soon('change', () => this.#change());
  }

  close() {
    this.#environment.abort();
    this.#rest('closed');
  }

  #change() {
    if (!this.#channels.size) {
      if (this.#state !== 'closed') {
        this.#rest('idle');
      }
    } else if (!this.#link) {
      if (this.#state === 'idle') {
        this.#connect();
      }
    } else if (this.#link.ready) {
      const wanted = new Set(this.#channels.keys());
      const had = this.#link.channels;
      const added = [...wanted].filter((name) => !had.has(name));
      const removed = [...had].filter((name) => !wanted.has(name));
      if (!added.length && !removed.length) {
        return;
      }
      if (!this.#link.send) {
        return this.#try(this.#link.transport);
      }
      this.#link.channels = wanted;
      if (added.length) {
        this.#link.send({ subscribe: added, backtrack: this.#options.backtrack, token: this.#token?.text });
      }
      if (removed.length) {
        this.#link.send({ unsubscribe: removed });
      }
    }
  }

  #connect() {
    this.#soon('retry');
    if (this.#link || this.#state === 'closed') {
      return;
    }
    if (globalThis.navigator?.onLine === false) {
      return this.#rest('paused');
    }
    // From what worked downwards: what is better is tried beside it.
    const lastGood = Math.max(this.#order.indexOf(this.#lastGood), 0);
    const order = [...this.#order.slice(lastGood), ...this.#order];
    if (this.#state !== 'off') {
      this.#setState('connecting');
    }
    this.#link = this.#open(order.find((name) => !this.#isBlocked(name)) ?? order[0]);
  }

  #try(transport) {
    this.#drop(this.#next);
    this.#next = this.#open(transport);
  }

  /** Tries again what is better than what works. */
  #seekBetter() {
    const better = this.#order.slice(0, this.#order.indexOf(this.#link.transport));
    const until = (name) => this.#blocked[name]?.until ?? 0;
    const [first] = better.sort((a, b) => until(a) - until(b));
    if (first) {
      this.#soon('seek', () => this.#next || this.#try(first), Math.max(until(first) - Date.now(), 1_000 * this.#options.stable));
    }
  }

  /** One connection, or one series of polls. */
  #open(transport) {
    const link = { transport, channels: new Set(this.#channels.keys()), abort: new AbortController() };
    link.unheard = new Set(link.channels);
    link.alive = (ms = 2_500 * this.#options.heartbeat) => {
      clearTimeout(link.watch);
      link.watch = link.over || setTimeout(() => this.#ended(link, { message: 'silence' }), ms);
    };
    link.alive(1_000 * this.#options.openTimeout);
    this.#run(link).then(() => this.#ended(link, {}), (why) => this.#ended(link, why));
    return link;
  }

  #drop(link) {
    if (link) {
      link.over = true;
      clearTimeout(link.watch);
      link.abort.abort();
    }
  }

  async #run(link) {
    await this.#ask(link);
    link.over || await this.#freshToken();
    if (link.over) {
      return;
    }
    if (link.transport === 'ws') {
      await this.#socket(link);
    } else if (link.transport.endsWith('poll')) {
      await this.#polls(link);
    } else {
      await this.#stream(link);
    }
  }

  /** Asks whether there is to be a feed, unless that is known. */
  async #ask(link) {
    const { rollout } = this.#options;
    if (!rollout || this.#timers.rollout) {
      return;
    }
    this.#visitor ??= this.#recall('fanfare') ?? Math.random().toString(36).slice(2);
    this.#remember('fanfare', this.#visitor);
    const response = await this.#fetch(link, `${this.#url('rollout')}?${queryOf({ ...rollout, id: this.#visitor })}`);
    const { enabled, dark, reason, check_again_s: seconds } = await response.json();
    if (link.over) {
      return;
    }
    if (!enabled) {
      this.#rest('off', reason);
    } else if (!link.ready) {
      this.#setState('connecting');
    }
    this.#askIn(seconds);
    if (this.#dark && !dark) {
      this.#anew();
    }
    this.#dark = dark ? this.#dark ?? {} : undefined;
  }

  #askIn(seconds) {
    this.#soon('rollout', async () => {
      this.#soon('rollout');
      if (this.#link) {
        await this.#ask(this.#link).catch(() => {});
        this.#timers.rollout || this.#link && this.#askIn(seconds);
      } else if (this.#state === 'off') {
        this.#connect();
      }
    }, 1_000 * seconds * (0.75 + Math.random() / 4));
  }

  #address(link, more) {
    const { backtrack } = this.#options;
    const query = queryOf({ transport: link.transport, format: 'json', since: this.#cursor, backtrack, ...more });
    return `${this.#url('sub')}/${[...link.channels].map(encodeURIComponent).join('/')}?${query}`;
  }

  #socket(link) {
    return new Promise((_, reject) => {
      const token = this.#token && { token: this.#token.text };
      const socket = new this.#options.WebSocket(this.#address(link, token).replace(/^http/, 'ws'));
      link.send = (message) => socket.send(JSON.stringify(message));
      link.abort.signal.addEventListener('abort', () => socket.close());
      socket.onmessage = ({ data }) => {
        link.alive();
        this.#hear(link, JSON.parse(data));
      };
      socket.onerror = socket.onclose = ({ code, reason }) =>
        reject({ message: reason, reconnect: !(code >= 4000 && code < 4100) });
    });
  }

  async #stream(link) {
    const reader = (await this.#get(link)).body.getReader();
    const decoder = new TextDecoder();
    for (let rest = ''; ;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      link.alive();
      const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const json = line.replace(/^data: ?/, '');
        if (json.startsWith('{')) {
          this.#hear(link, JSON.parse(json));
        } else if (line.startsWith('retry:')) {
          this.#backoffMs = Number(line.slice(6)) || this.#backoffMs;
        }
      }
    }
  }

  async #polls(link) {
    // The first wait is short: only an answer shows that answers come.
    for (let wait = 1; !link.over; wait = LONGPOLL_S) {
      const waits = link.transport === 'longpoll' && { wait };
      link.alive(1_000 * (this.#options.openTimeout + (waits ? wait : 0)));
      const response = await this.#get(link, { ...waits, ...(this.#sid && { sid: this.#sid }) });
      const { messages, cursor, recovered, sid, presence = {} } = await response.json();
      const told = messages.some(({ event }) => event === 'fanfare:gap');
      for (const channel of link.channels) {
        const anew = link.unheard.has(channel) || presence[channel];
        const event = anew ? 'subscribed' : recovered === false && !told && 'gap';
        if (event) {
          this.#hear(link, { event: `fanfare:${event}`, channel, recovered, presence: presence[channel] });
        }
      }
      this.#sid = sid ?? this.#sid;
      messages.forEach((message) => this.#hear(link, message));
      if (link.over) {
        return;
      }
      this.#cursor = cursor ?? this.#cursor;
      if (!waits) {
        const ms = 1_000 * this.#options.pollInterval * (0.75 + Math.random() / 2);
        link.alive(2 * ms + 1_000 * this.#options.openTimeout);
        await new Promise((resolve) => setTimeout(resolve, ms));
      }
      await this.#freshToken();
    }
  }

  async #get(link, more) {
    const headers = {};
    if (this.#token) {
      // A header stays out of logs, but costs a question before each request to another origin.
      const here = globalThis.location?.origin;
      if (!here || this.#url('sub').startsWith(`${here}/`)) {
        headers.Authorization = `Bearer ${this.#token.text}`;
      } else {
        more = { ...more, token: this.#token.text };
      }
    }
    return this.#fetch(link, this.#address(link, more), headers);
  }

  async #fetch(link, address, headers) {
    const { fetch, credentials } = this.#options;
    const response = await fetch(address, { headers, credentials, signal: link.abort.signal, cache: 'no-store' });
    if (response.ok) {
      return response;
    }
    // Without an error of the server's, it was somebody on the way to it.
    const { error } = await response.json().catch(() => ({}));
    throw {
      status: error && response.status,
      message: error ?? `status ${response.status}`,
      retryMs: 1_000 * response.headers.get('Retry-After') || undefined,
    };
  }

  #hear(link, message) {
    if (link.over) {
      return;
    }
    const { event, channel, cursor } = message;
    const entry = this.#channels.get(channel);
    switch (event) {
      case 'fanfare:subscribed':
        return this.#subscribed(link, message, entry);
      case 'fanfare:gap':
        this.#cursor = cursor ?? this.#cursor;
        if (channel.startsWith('presence-') && link === this.#link && !this.#next) {
          this.#anew();
        }
        return entry && this.#show('gap', { channel });
      case 'fanfare:error':
        return this.#refused(link, message);
      case 'fanfare:closed':
        return this.#ended(link, { ...message, message: message.reason });
    }
    this.#cursor = cursor ?? this.#cursor;
    if (!entry || !isNew(entry.seen, message, SEEN_MAX + 2 * (this.#options.backtrack ?? 0))) {
      return;
    }
    if (event.startsWith('fanfare:')) {
      this.#show(event.slice(8), { ...message, data: JSON.parse(message.data) });
    } else {
      this.#show('message', message);
    }
  }

  #subscribed(link, { channel, recovered, cursor, presence }, entry) {
    if (!link.ready) {
      this.#ready(link);
    }
    // What was missed comes next, and may be cut off: until it has come, the cursor stays.
    const atOpening = link.unheard.delete(channel);
    link.replays ||= recovered;
    link.start ??= cursor;
    const resumes = atOpening && this.#cursor;
    if (resumes ? recovered === false && !link.replays && !link.unheard.size : !recovered) {
      this.#cursor = (atOpening ? link.start : cursor) ?? this.#cursor;
    }
    if (entry) {
      if (recovered === false && entry.known) {
        this.#show('gap', { channel });
      }
      entry.known = true;
      this.#show('subscribed', { channel, recovered, presence });
    }
  }

  #ready(link) {
    link.ready = Date.now();
    if (link === this.#next) {
      this.#drop(this.#link);
      this.#next = undefined;
      this.#link = link;
    }
    this.#tokenRefused = false;
    this.#lastGood = link.transport;
    this.#remember(this.#memory, { transport: link.transport, until: Date.now() + REMEMBERED_MS });
    this.#setState('connected');
    this.#seekBetter();
    this.#soon('change', () => this.#change());
  }

  #refused(link, { channel, status, message }) {
    if (status === 401 && this.#options.token) {
      return this.#ended(link, { status, message });
    }
    this.#channels.delete(channel);
    link.channels.delete(channel);
    this.#emit('error', { channel, status, message });
  }

  #ended(link, why) {
    if (link.over) {
      return;
    }
    this.#drop(link);
    if (link === this.#next) {
      this.#next = undefined;
      if (this.#declined(link, why)) {
        return this.#seekBetter();
      }
      this.#drop(this.#link);
    } else if (this.#next) {
      this.#link = this.#next;
      this.#next = undefined;
      return this.#setState('connecting', why.message);
    }
    this.#link = undefined;
    this.#again(link, why);
  }

  /** Whether life goes on without what was tried. */
  #declined(link, { status, message }) {
    const added = [...link.channels].filter((name) => !this.#link.channels.has(name));
    if (status >= 400 && status < 500 && (status !== 401 || !this.#options.token) && added.length) {
      added.forEach((channel) => this.#refused(link, { channel, status, message }));
      return true;
    }
    if (status || link.transport === this.#link.transport) {
      return false;
    }
    this.#block(link.transport);
    return true;
  }

  #again(link, why) {
    this.#soon('seek');
    const expired = why.status === 401 || why.reason === 'token_expired';
    if (expired && typeof this.#options.token === 'function' && !this.#tokenRefused) {
      this.#tokenRefused = true;
      this.#token = undefined;
    } else if (expired || why.reconnect === false || /^4(?!29)/.test(why.status)) {
      this.close();
      return this.#emit('error', { status: why.status, message: why.message });
    }
    if (link.ready && Date.now() - link.ready >= 1_000 * this.#options.stable) {
      this.#attempt = this.#shortLives = 0;
      delete this.#blocked[link.transport];
    } else if (!why.status && !why.reason && (!link.ready || ++this.#shortLives >= SHORT_LIVES_MAX)) {
      this.#block(link.transport);
    }
    const allBlocked = this.#order.every((name) => this.#isBlocked(name));
    let ms = 100;
    if (link.ready || why.status || allBlocked) {
      ms = Math.min(this.#backoffMs * 2 ** this.#attempt++, BACKOFF_MS_MAX);
    }
    ms = why.retryMs ? why.retryMs * (1 + Math.random() / 2) : ms * Math.random();
    if (allBlocked) {
      Object.values(this.#blocked).forEach((mark) => (mark.until = 0));
    }
    this.#setState('waiting', why.message);
    this.#soon('retry', () => this.#connect(), ms);
  }

  #isBlocked(transport) {
    return this.#blocked[transport]?.until > Date.now();
  }

  #block(transport, times = 0) {
    const mark = (this.#blocked[transport] ??= { times });
    const ms = Math.min(1_000 * this.#options.retryBlocked * 2 ** mark.times++, BLOCKED_MS_MAX);
    mark.until = Date.now() + ms * (0.75 + Math.random() / 2);
    this.#shortLives = 0;
  }

  #rest(state, reason) {
    this.#drop(this.#link);
    this.#drop(this.#next);
    this.#link = this.#next = undefined;
    Object.keys(this.#timers).forEach((name) => this.#soon(name));
    this.#setState(state, reason);
  }

  #wake() {
    if (this.#state === 'paused' || this.#state === 'waiting') {
      this.#attempt = 0;
      this.#state = 'idle';
      this.#change();
    }
  }

  async #freshToken() {
    const { token } = this.#options;
    if (token && !(this.#token?.until > Date.now())) {
      const text = typeof token === 'function' ? await token().catch(({ message }) => Promise.reject({ status: 503, message: `no token: ${message}` })) : token;
      const lifeMs = typeof token === 'function' ? lifeOf(text) : Infinity;
      this.#token = { text, until: Date.now() + lifeMs };
      if (lifeMs < 2 ** 31) {
        this.#soon('token', () => this.#renewToken(), lifeMs);
      }
    }
  }

  #renewToken() {
    this.#token = undefined;
    this.#anew();
  }

  /** Subscribes again, and is told who is there. */
  #anew() {
    if (this.#link?.ready) {
      this.#sid = undefined;
      this.#try(this.#link.transport);
    }
  }

  #recall(name) {
    try {
      return JSON.parse(this.#storage.getItem(name));
    } catch {
      // There is no memory for this page.
    }
  }

  #remember(name, what) {
    try {
      this.#storage.setItem(name, JSON.stringify(what));
    } catch {
      // There is no memory for this page.
    }
  }

  get #storage() {
    return this.#options.storage ?? globalThis.localStorage;
  }

  #watchEnvironment() {
    const { signal } = this.#environment;
    const { document } = globalThis;
    const suspendMs = 1_000 * this.#options.suspendHidden;
    globalThis.addEventListener?.('online', () => this.#wake(), { signal });
    globalThis.addEventListener?.('offline', () => this.#rest('paused'), { signal });
    document?.addEventListener('visibilitychange', () => {
      this.#soon('suspend', document.hidden && suspendMs ? () => this.#rest('paused') : undefined, suspendMs);
      if (!document.hidden) {
        this.#wake();
      }
    }, { signal });
  }

  #setState(state, reason) {
    const { transport } = this;
    if (this.#state !== state) {
      this.#state = state;
      this.#emit('state', { state, reason });
    }
    if (transport && transport !== this.#announced) {
      this.#announced = transport;
      this.#emit('transport', { transport });
    }
  }

  /** Tells what a channel says, unless it is to stay dark. */
  #show(event, detail) {
    if (!this.#dark) {
      return this.#emit(event, detail);
    }
    this.#dark[event] = (this.#dark[event] ?? 0) + 1;
    this.#emit('dark', { event, detail });
  }

  #emit(event, detail) {
    this.#listeners[event]?.forEach((listener) => {
      try {
        listener(detail);
      } catch (error) {
        // A listener's mistake costs the others nothing.
        queueMicrotask(() => {
          throw error;
        });
      }
    });
  }

  /** Plans something in place of what was planned under this name. */
  #soon(name, act, ms = 0) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = act && setTimeout(act, ms);
  }
}

function queryOf(parameters) {
  return new URLSearchParams(Object.entries(parameters).filter(([, value]) => value));
}

/** Whether a message is none of the last `max` that have been seen: by its own name, or else by its place. */
function isNew(seen, { cursor, event_id: id }, max) {
  const key = id === undefined ? cursor : `#${id}`;
  const fresh = !key || !seen.delete(key);
  seen.add(key);
  if (seen.size > max) {
    seen.delete(seen.values().next().value);
  }
  return fresh;
}

/** How long a token is worth using: until a fifth of its life, or 30 s, is left. */
function lifeOf(token) {
  try {
    const { exp, iat } = JSON.parse(atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')));
    const lifeMs = exp * 1_000 - (iat ? iat * 1_000 : Date.now());
    return exp ? Math.max(lifeMs * 0.8, lifeMs - 30_000) : Infinity;
  } catch {
    return Infinity;
  }
}
