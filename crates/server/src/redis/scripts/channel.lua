-- What every script about channels begins with. It is put before each of them, after the shebang.
--
-- KEYS: 1 the unit's fence, 2 its stamp, 3 the channel's meta, `{prefix}c:{app}/{name}`, and then its other keys; or 3… the metas of
--   several channels.
-- ARGV: 1 the generation that the caller knows, 2 the prefix of all keys of the unit, 3… as each script says.
--
-- A channel's keys, all of one unit:
--   c:  meta, packed: e epoch, o offset, s stamp of what was stored last, l the highest stamp of what is not held any more,
--       b bytes of what is held, p until when the history lives, x where the epoch before this one ended
--   h:  history, a list of `offset:stamp:expires_ms:bytes;record`, the oldest first
--   l:  latest event of a cache channel, `epoch:offset:stamp;record`
--   i:  idempotency keys, `epoch:offset:stamp:receivers`
-- An app's keys in the unit:
--   b:  weights, a hash: bytes that each channel's history takes, and under '' those of all
--   t:  ages, a sorted set: for each channel a stamp that its oldest entry is not below
--
-- Always true: what a channel ever stored and does not hold has a stamp of at most l, and offsets in the list end at o.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
  return redis.error_reply('FENCED of another generation')
end

local generation, prefix = tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)

-- A channel of which nothing was heard for so long is forgotten. Nobody comes back to it by a stamp that is older.
local META_TTL_MS = 3600000
-- How far clocks may differ.
local SKEW_US = 10000000
-- What an entry takes beside the name and the data of its event.
local OVERHEAD = 256

-- Lua would write large numbers with an exponent.
local function text(number) return string.format('%.0f', number) end

local last = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), generation)

local function set_last(stamp)
  last = stamp
  redis.call('SET', KEYS[2], text(stamp))
  return stamp
end

-- A stamp above all before it.
local function draw() return set_last(math.max(last + 1, now_us)) end

-- A stamp that all later ones are above.
local function present() return set_last(math.max(last, now_us)) end

local function names_of(meta_key)
  local name = string.sub(meta_key, #prefix + 3)
  local app = string.match(name, '^[^/]*')
  return { name = name, meta = meta_key, history = prefix .. 'h:' .. name, newest = prefix .. 'l:' .. name,
    weights = prefix .. 'b:' .. app, ages = prefix .. 't:' .. app }
end

-- A version and six numbers; x is what follows them.
local META, META_BYTES = '<Bdddddd', 49

local function write(names, meta, ttl_ms)
  local packed = struct.pack(META, 1, meta.e, meta.o, meta.s, meta.l, meta.b, meta.p) .. meta.x
  if ttl_ms then
    redis.call('SET', names.meta, packed, 'PX', ttl_ms)
  else
    redis.call('SET', names.meta, packed, 'KEEPTTL')
  end
end

local function unpack_meta(packed)
  local _, e, o, s, l, b, p = struct.unpack(META, packed)
  return { e = e, o = o, s = s, l = l, b = b, p = p, x = string.sub(packed, META_BYTES + 1) }
end

-- What is known of a channel, in an epoch of this generation; nil if nothing is, and it is not to begin now.
local function read(names, begins)
  local packed = redis.call('GET', names.meta)
  if not packed then
    if not begins then return nil end
    redis.call('DEL', names.history)
    local lost = math.max(generation, now_us - META_TTL_MS * 1000)
    local meta = { e = draw(), o = 0, s = lost, l = lost, b = 0, p = 0, x = '' }
    write(names, meta, META_TTL_MS)
    return meta
  end
  local meta = unpack_meta(packed)
  if meta.e < generation then
    -- Another process serves the unit, and may have lost the end of the stream.
    meta.e, meta.x = draw(), ''
    write(names, meta)
  end
  return meta
end

local function head(entry) return string.match(entry, '^(%d+):(%d+):(%d+):(%d+);') end

-- Counts what the channel's history weighs from now on more than before; returns the weight of all of the app's.
local function weigh(names, more)
  redis.call('HINCRBY', names.weights, names.name, text(more))
  return redis.call('HINCRBY', names.weights, '', text(more))
end

-- The channel's history has gone: with it, its weight.
local function unweigh(names)
  local weight = redis.call('HGET', names.weights, names.name)
  redis.call('ZREM', names.ages, names.name)
  if not weight then return tonumber(redis.call('HGET', names.weights, '') or 0) end
  redis.call('HDEL', names.weights, names.name)
  return redis.call('HINCRBY', names.weights, '', '-' .. weight)
end

-- Drops the oldest entry; returns what it weighed.
local function drop_oldest(names, meta)
  local _, stamp, _, bytes = head(redis.call('LPOP', names.history))
  meta.b, meta.l = meta.b - bytes, tonumber(stamp)
  return bytes + OVERHEAD
end

-- Drops what has lived for its time; returns what it weighed.
local function expire(names, meta)
  local gone = 0
  while true do
    local oldest = redis.call('LINDEX', names.history, 0)
    if not oldest then
      -- All went by itself, or by this.
      meta.l, meta.b = math.max(meta.l, meta.s), 0
      return gone
    end
    local _, _, expires = head(oldest)
    if tonumber(expires) > now_ms then return gone end
    gone = gone + drop_oldest(names, meta)
  end
end

