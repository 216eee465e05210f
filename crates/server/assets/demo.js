// The demo: a thread of comments and who reads it, over any transport of fanfare.js, or over stock pusher-js.
//
// A comment goes where a site's own would: into a queue, through a pipeline that makes it safe, and to the thread's
// channel among others. The thread is what its events make of it: create, edit and delete are publications like any other,
// so a page that opens folds the last of them, and one that was cut off those that it missed.

import { Fanfare } from '/fanfare.js';

const APP_KEY = 'fanfare-key';
/** Who is here, and what anybody else publishes. */
const ROOM = 'presence-demo';
/** What the pipeline makes of comments. */
const THREAD = 'thread.demo';
const COMMENTS_MAX = 200;
const NAMES = { ws: 'WebSocket', sse: 'SSE', stream: 'streaming', longpoll: 'long-polling', poll: 'polling', pusher: 'Pusher protocol' };
/** Clocks further apart than this are not of one machine. */
const SKEW_MS_MAX = 60_000;

const $ = (id) => document.getElementById(id);
const { hostname, origin, port, protocol } = location;
const openedAt = now();

const me = {
  id: (sessionStorage.id ??= Math.random().toString(36).slice(2)),
  name: (sessionStorage.name ??= randomName()),
};

/** Makes something of each event of the thread. */
const events = { create: showComment, edit: showEdit, delete: showDeletion };

/** What is heard, to be closed before anything else is opened. */
let feed;
/** Where the next feed goes on. */
let cursor;
const members = new Map();
let unread = 0;

$('name').value = me.name;
$('name').addEventListener('change', rename);
$('form').addEventListener('submit', post);
$('transports').addEventListener('change', open);
$('transports').querySelector(`[value=${sessionStorage.transport ?? 'auto'}]`).checked = true;
document.addEventListener('visibilitychange', () => document.hidden || countUnread(-unread));
document.querySelectorAll('#snippets figure').forEach(prepareSnippet);
open();

function open() {
  const chosen = $('transports').querySelector(':checked').value;
  sessionStorage.transport = chosen;
  cursor = feed?.cursor ?? cursor;
  feed?.close();
  feed = chosen === 'pusher' ? openPusher() : openFanfare(chosen === 'auto' ? undefined : [chosen]);
}

function openFanfare(transports) {
  const feed = new Fanfare(origin, APP_KEY, {
    channels: [ROOM, THREAD], transports, since: cursor, backtrack: 2 * COMMENTS_MAX, token: fetchToken, pollInterval: 2,
  });
  feed.on('message', ({ event, data }) => hear(event, data));
  feed.on('subscribed', ({ presence }) => presence && setMembers(Object.entries(presence.hash)));
  feed.on('member_added', ({ data }) => renderMembers(members.set(data.user_id, data.user_info)));
  feed.on('member_removed', ({ data }) => renderMembers(members.delete(data.user_id)));
  feed.on('gap', ({ channel }) => channel === THREAD && showNotice('Comments may be missing here: the server cannot tell what there was in between.'));
  feed.on('state', ({ state, reason }) => showState(state, feed.transport, reason));
  feed.on('transport', ({ transport }) => showState('connected', transport));
  feed.on('error', ({ message }) => showState('closed', undefined, message));
  return feed;
}

function openPusher() {
  const pusher = new Pusher(APP_KEY, {
    cluster: '',
    wsHost: hostname,
    wsPort: port || 80,
    wssPort: port || 443,
    forceTLS: protocol === 'https:',
    enabledTransports: ['ws', 'wss'],
    channelAuthorization: {
      endpoint: '/pusher/auth',
      transport: 'ajax',
      paramsProvider: () => ({ user_id: me.id, user_info: JSON.stringify({ name: me.name }) }),
    },
  });
  const channel = pusher.subscribe(ROOM);
  const showMembers = () => setMembers(Object.entries(channel.members.members));
  pusher.connection.bind('state_change', ({ current }) => showState(current, 'pusher'));
  channel.bind('pusher:member_added', showMembers);
  channel.bind('pusher:member_removed', showMembers);
  channel.bind('pusher:subscription_succeeded', showMembers);
  channel.bind_global((event, data) => event.startsWith('pusher:') || hear(event, data));
  pusher.subscribe(THREAD).bind_global((event, data) => event.startsWith('pusher:') || hear(event, data));
  return { close: () => pusher.disconnect() };
}

async function fetchToken() {
  const body = new URLSearchParams({ user_id: me.id, user_info: JSON.stringify({ name: me.name }) });
  return (await (await fetch('/fanfare/token', { method: 'POST', body })).json()).token;
}

/** Who somebody is on a channel is settled when joining it. */
function rename() {
  me.name = sessionStorage.name = $('name').value.trim() || randomName();
  $('name').value = me.name;
  open();
}

// Comments out, and in.

async function post(submit) {
  submit.preventDefault();
  const text = $('text').value.trim();
  // Emptied at once: what is typed while the answer is under way is the next comment.
  $('text').value = '';
  if (text && !(await publish('create', { id: newId(), name: me.name, text }))) {
    $('text').value ||= text;
  }
}

/** Says what happened to a comment; resolves to whether the server has it for good. */
async function publish(kind, data) {
  const comment = { forum: 'demo', thread: 'demo', user: me.id, ...data, sent_ms: now() };
  const answer = await fetch(`/demo/${kind}`, { method: 'POST', body: JSON.stringify(comment) })
    .then((response) => (response.ok ? '' : `status ${response.status}`), () => 'the server does not answer');
  $('trouble').textContent = answer && `Not sent, try again: ${answer}.`;
  return !answer;
}

/** Data that is not ours, from a server say, is shown as it is. */
function hear(event, data) {
  const said = parse(data);
  if (events[event] && said?.id) {
    events[event](said);
  } else {
    append(element('li', 'notice', `${event}: ${said?.text ?? (typeof data === 'string' ? data : JSON.stringify(data))}`));
  }
}

function showComment({ id, user, name, text, sent_ms }) {
  if (find(id)) {
    return;
  }
  const item = element('li', user === me.id ? 'comment mine' : 'comment');
  item.dataset.id = id;
  item.style.setProperty('--hue', hueOf(user));
  const when = element('small', 'when', new Date(sent_ms).toLocaleTimeString([], { timeStyle: 'short' }));
  item.append(element('strong', '', name), when, element('small', 'took', tookOf(sent_ms)), element('p', 'text', plain(text)));
  if (user === me.id) {
    item.append(button('Edit', () => beginEdit(item, id)), button('Delete', () => publish('delete', { id })));
  }
  append(item, user === me.id);
  countUnread(document.hidden && user !== me.id ? 1 : 0);
}

function showEdit({ id, text, sent_ms }) {
  const item = find(id);
  if (item && !item.classList.contains('deleted')) {
    item.querySelector('.text').textContent = plain(text);
    item.querySelector('.took').textContent = `edited ${tookOf(sent_ms)}`;
  }
}

function showDeletion({ id }) {
  const item = find(id);
  if (item) {
    item.classList.add('deleted');
    item.querySelector('.text').textContent = 'deleted';
    item.querySelectorAll('button, .took, form').forEach((part) => part.remove());
  }
}

function beginEdit(item, id) {
  const text = item.querySelector('.text');
  const form = element('form', 'edit');
  const input = Object.assign(element('input'), { value: text.textContent, maxLength: 2000, ariaLabel: 'Edit the comment' });
  const end = () => {
    form.remove();
    text.hidden = false;
  };
  form.append(input, element('button', '', 'Save'), button('Cancel', end));
  form.addEventListener('submit', async (submit) => {
    submit.preventDefault();
    if (!input.value.trim() || (await publish('edit', { id, text: input.value.trim() }))) {
      end();
    }
  });
  item.querySelector('form')?.remove();
  text.hidden = true;
  text.after(form);
  input.focus();
}

function showNotice(text) {
  append(element('li', 'notice gap', text));
}

function append(item, mine = false) {
  const list = $('messages');
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.children.length > COMMENTS_MAX) {
    list.firstElementChild.remove();
  }
  if (atEnd || mine) {
    list.scrollTop = list.scrollHeight;
  }
}

function find(id) {
  return $('messages').querySelector(`[data-id="${CSS.escape(id)}"]`);
}

/** How long something was under way, which is shown as the latest, too; nothing of what is older than this page. */
function tookOf(sent_ms) {
  const ms = now() - sent_ms;
  if (!(sent_ms >= openedAt && Math.abs(ms) < SKEW_MS_MAX)) {
    return '';
  }
  const text = ms < 1_000 ? `${Math.max(ms, 0).toFixed(1)} ms` : `${(ms / 1_000).toFixed(1)} s`;
  $('latency').textContent = text;
  return text;
}

// Who and what is there.

function setMembers(entries) {
  members.clear();
  entries.forEach(([id, info]) => members.set(id, info));
  renderMembers();
}

function renderMembers() {
  const items = [...members].map(([id, info]) => {
    const item = element('li', '', `${info?.name ?? id}${id === me.id ? ' (you)' : ''}`);
    item.style.setProperty('--hue', hueOf(id));
    return item;
  });
  $('members').replaceChildren(...items);
  $('count').textContent = members.size;
}

function showState(state, transport, reason) {
  $('state').dataset.state = state;
  $('state').textContent = [state, transport && `by ${NAMES[transport]}`, reason && `(${reason})`].filter(Boolean).join(' ');
  for (const input of $('transports').querySelectorAll('input')) {
    input.parentElement.classList.toggle('using', input.value === transport);
  }
}

function countUnread(more) {
  unread += more;
  document.title = unread ? `(${unread}) Fanfare` : 'Fanfare';
}

/** Fills in where this server is, and makes the button work. */
function prepareSnippet(figure) {
  const code = figure.querySelector('code');
  const copy = figure.querySelector('.copy');
  code.textContent = code.textContent.replaceAll('127.0.0.1', hostname).replaceAll('6001', port || '80');
  copy.addEventListener('click', async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = 'Copied';
    setTimeout(() => (copy.textContent = 'Copy'), 1500);
  });
}

// Small things.

/** Milliseconds, on the clock that all pages of a machine share, finer than Date.now(). */
function now() {
  return performance.timeOrigin + performance.now();
}

/** pusher-js parses what it hears; fanfare.js leaves that to us. */
function parse(data) {
  try {
    return typeof data === 'string' ? JSON.parse(data) : data;
  } catch {
    return undefined;
  }
}

/** The pipeline makes safe HTML of a comment; this page shows the text of it. */
function plain(html) {
  return new DOMParser().parseFromString(html, 'text/html').body.textContent;
}

function newId() {
  return `${me.id}-${Math.random().toString(36).slice(2)}`;
}

/** The same colour for the same person, in every tab. */
function hueOf(id) {
  return [...String(id)].reduce((hash, letter) => (hash * 31 + letter.codePointAt(0)) % 360, 7);
}

function button(text, act) {
  const made = element('button', 'small', text);
  made.type = 'button';
  made.addEventListener('click', act);
  return made;
}

function element(tag, className = '', text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function randomName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const manner = pick(['Brisk', 'Calm', 'Clever', 'Gentle', 'Jolly', 'Keen', 'Lucky', 'Mellow', 'Noble', 'Quiet', 'Swift', 'Witty']);
  const being = pick(['Badger', 'Crane', 'Falcon', 'Finch', 'Fox', 'Heron', 'Lynx', 'Marten', 'Otter', 'Raven', 'Seal', 'Wren']);
  return `${manner} ${being}`;
}
