-- Publishes: idempotency, position, stamp, history, newest event and the message itself, as one act.
--
-- ARGV: 3 the record, 4 whether it is stored (1 or 0), 5 bytes that its channel's rule counts, 6 messages, 7 bytes and
--   8 milliseconds that are kept, 9 bytes that all histories of the app may take in this unit, 10 milliseconds for which it is the
--   newest (0: not at all), 11 milliseconds for which its idempotency key is known, 12 that key ('': it has none).
-- Answers epoch, offset, stamp (0 if it is not stored), receivers, and whether it is a repeat.

local names = names_of(KEYS[3])
local record, stored, bytes = ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
local messages_max, bytes_max, ttl_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local app_bytes_max, newest_ms, window_ms = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local first = ARGV[12] ~= '' and prefix .. 'i:' .. names.name .. ':' .. ARGV[12]

if first then
  local known = redis.call('GET', first)
  if known then
    local e, o, s, heard = string.match(known, '^(%d+):(%d+):(%d+):(%d+)$')
    return { tonumber(e), tonumber(o), tonumber(s), tonumber(heard), 1 }
  end
end

-- Forgets channels whose histories have gone by themselves: it looks at two for each that is new, so that they stay fewer than
-- the others.
local function sweep()
  for _, name in ipairs(redis.call('ZRANDMEMBER', names.ages, 2)) do
    local other = names_of(prefix .. 'c:' .. name)
    if redis.call('EXISTS', other.history) == 0 then unweigh(other) end
  end
end

-- Drops the oldest entries of the app until it is within its budget, or the newest alone is left. What is too much for one turn is
-- left for the next.
local function trim(total)
  for _ = 1, 1000 do
    local oldest = redis.call('ZRANGE', names.ages, 0, 0, 'WITHSCORES')
    if not oldest[1] or total <= app_bytes_max then return end
    local other = names_of(prefix .. 'c:' .. oldest[1])
    local entry = redis.call('LINDEX', other.history, 0)
    if not entry then
      total = unweigh(other)
    else
      local _, stamp = head(entry)
      if tonumber(stamp) > tonumber(oldest[2]) then
        redis.call('ZADD', names.ages, stamp, oldest[1])
      elseif tonumber(stamp) == last then
        return
      else
        local packed = redis.call('GET', other.meta)
        local meta = packed and unpack_meta(packed) or { b = 0 }
        total = weigh(other, -drop_oldest(other, meta))
        if packed then write(other, meta) end
      end
    end
  end
end

-- Keeps the record as far as the rule lets it; returns how much more the history weighs, and whether the channel had none.
local function keep(meta, offset, stamp, last_stored)
  if messages_max == 0 or bytes > bytes_max then
    -- What is not kept leaves a hole, before which nothing is of use.
    meta.l, meta.b = meta.s, 0
    if redis.call('DEL', names.history) == 1 then unweigh(names) end
    return 0, false
  end
  local before = meta.l
  local entry = offset .. ':' .. stamp .. ':' .. now_ms + ttl_ms .. ':' .. ARGV[5] .. ';' .. record
  local length = redis.call('RPUSH', names.history, entry)
  if length == 1 or meta.p < now_ms + ttl_ms then
    -- Every entry says itself how long it lives: the list has to live no less.
    meta.p = now_ms + 2 * ttl_ms
    redis.call('PEXPIRE', names.history, 2 * ttl_ms)
  end
  meta.b = meta.b + bytes
  local more = bytes + OVERHEAD
  if length == 1 then
    meta.l, meta.b, more = math.max(meta.l, last_stored), bytes, more - (redis.call('HGET', names.weights, names.name) or 0)
    return more, redis.call('ZADD', names.ages, 'NX', stamp, names.name) == 1
  end
  while length > messages_max or meta.b > bytes_max do
    more = more - drop_oldest(names, meta)
    length = length - 1
  end
  if meta.l == before then more = more - expire(names, meta) end
  return more, false
end

local epoch, offset, stamp, place = 0, 0, 0, ''
if stored then
  local meta = read(names, true)
  local last_stored = meta.s
  meta.o, meta.s = meta.o + 1, draw()
  epoch, offset, stamp = meta.e, meta.o, meta.s
  local stamp_text = text(stamp)
  place = text(epoch) .. ':' .. offset .. ':' .. stamp_text
  local more, is_new = keep(meta, offset, stamp_text, last_stored)
  write(names, meta, META_TTL_MS + math.max(2 * ttl_ms, newest_ms))
  if newest_ms > 0 then redis.call('SET', names.newest, place .. ';' .. record, 'PX', newest_ms) end
  if more ~= 0 then
    local total = weigh(names, more)
    -- Both look at other channels, whose keys may have gone ahead to another server where the slot is on its way. Then they fail,
    -- which must not leave this publication stored and untold: the next one tries again.
    if is_new then pcall(sweep) end
    if total > app_bytes_max then pcall(trim, total) end
  end
end

local receivers = redis.call('SPUBLISH', KEYS[3], place .. ';' .. record)
if first then
  local known = text(epoch) .. ':' .. offset .. ':' .. text(stamp) .. ':' .. receivers
  redis.call('SET', first, known, 'PX', window_ms)
end
return { epoch, offset, stamp, receivers, 0 }
