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

-- Looks at the channels whose entries may be the oldest. Those without any are forgotten; with `drops`, the oldest entries go
-- until the app is within its budget, or the newest alone is left.
local function tidy(total, looks, drops)
  for _ = 1, looks do
    local oldest = redis.call('ZRANGE', names.ages, 0, 0, 'WITHSCORES')
    if not oldest[1] or drops and total <= app_bytes_max then return end
    local other = names_of(prefix .. 'c:' .. oldest[1])
    local entry = redis.call('LINDEX', other.history, 0)
    if not entry then
      total = unweigh(other)
    else
      local _, stamp, _, size = head(entry)
      if tonumber(stamp) > tonumber(oldest[2]) then
        redis.call('ZADD', names.ages, stamp, oldest[1])
      elseif not drops or tonumber(stamp) == last then
        return
      else
        redis.call('LPOP', other.history)
        if redis.call('EXISTS', other.meta) == 1 then
          redis.call('HINCRBY', other.meta, 'b', '-' .. size)
          redis.call('HSET', other.meta, 'l', stamp)
        end
        total = weigh(other, -size - OVERHEAD)
      end
    end
  end
end

local function keep(meta)
  local held = redis.call('LLEN', names.history)
  local more = 0
  if held == 0 then
    meta.l, meta.b = math.max(meta.l, meta.s), 0
    more = -tonumber(redis.call('HGET', names.weights, names.name) or 0)
  else
    more = -expire(names, meta)
  end
  meta.s = draw()
  if messages_max == 0 or bytes > bytes_max then
    -- What is not kept leaves a hole, before which nothing is of use.
    meta.l, meta.b = meta.s, 0
    if redis.call('DEL', names.history) == 1 then unweigh(names) end
    return
  end
  local entry = text(meta.o) .. ':' .. text(meta.s) .. ':' .. text(now_ms + ttl_ms) .. ':' .. ARGV[5] .. ';' .. record
  local length = redis.call('RPUSH', names.history, entry)
  meta.b, more = meta.b + bytes, more + bytes + OVERHEAD
  while length > messages_max or meta.b > bytes_max do
    more = more - drop_oldest(names, meta)
    length = length - 1
  end
  redis.call('PEXPIRE', names.history, ttl_ms)
  return more, length == 1 and redis.call('ZADD', names.ages, 'NX', text(meta.s), names.name) == 1
end

local epoch, offset, stamp, place = 0, 0, 0, ''
if stored then
  local meta = read(names, true)
  meta.o = meta.o + 1
  local more, is_new = keep(meta)
  write(names, meta)
  redis.call('PEXPIRE', names.meta, META_TTL_MS + math.max(ttl_ms, newest_ms))
  epoch, offset, stamp = meta.e, meta.o, meta.s
  place = text(epoch) .. ':' .. text(offset) .. ':' .. text(stamp)
  if newest_ms > 0 then redis.call('SET', names.newest, place .. ';' .. record, 'PX', newest_ms) end
  if more and more ~= 0 then
    local total = weigh(names, more)
    if is_new then tidy(total, 2, false) end
    if total > app_bytes_max then tidy(total, 1000, true) end
  end
end

local receivers = redis.call('SPUBLISH', KEYS[3], place .. ';' .. record)
if first then
  local known = text(epoch) .. ':' .. text(offset) .. ':' .. text(stamp) .. ':' .. text(receivers)
  redis.call('SET', first, known, 'PX', window_ms)
end
return { epoch, offset, stamp, receivers, 0 }
