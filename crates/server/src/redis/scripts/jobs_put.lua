-- Adds jobs, all of them or none.
-- ARGV: 4 jobs_max, 5 bytes_max, then seven of each job: kind, priority, the delay in ms, not_before_ms as it was asked for, key and
-- idempotency key (optional), data. Answers 'FULL', or of each its number, below zero if it was known.

local WORDS = 7

local function known(name)
  return name and redis.call('HGET', NAMES, name)
end

-- All that is new must fit. Those that the same put names twice are counted twice, which errs on the safe side.
local function fits()
  local jobs, bytes = 0, 0
  for i = 6, #ARGV, WORDS do
    if not known(optional(ARGV[i + 5])) then
      jobs, bytes = jobs + 1, bytes + #ARGV[i + 6]
    end
  end
  local unfinished = redis.call('ZCARD', STATES) - counted('f', 'g')
  local held = tonumber(redis.call('HGET', META, 'bytes') or '0') + (tallies.bytes or 0)
  return jobs == 0 or unfinished + jobs <= tonumber(ARGV[4]) and held + bytes <= tonumber(ARGV[5])
end

local function put(kind, priority, delay, from, key, name, data)
  local id = known(name)
  if id then
    tally('known', 1)
    return -tonumber(id)
  end
  tally('put', 1)
  id = text(redis.call('HINCRBY', META, 'jobs', 1))
  local row = {
    id = id, state = 'w', since = now, ends = 0, lease = 0, place = number(), priority = priority, attempt = 1, put = now,
    from = from, bytes = #data, kind = kind, key = key, name = name, owner = '', progress = '', reason = '', result = '',
  }
  if delay > 0 then row.state, row.ends = 'd', now + delay end
  redis.call('HSET', DATA, id, data)
  if name then redis.call('HSET', NAMES, name, id) end
  index(row)
  return tonumber(id)
end

if not fits() then return done('FULL') end
-- A server that took over may lack the last puts of the one before, whose numbers may be known to somebody.
if redis.call('HGET', META, 'generation') ~= ARGV[1] then
  redis.call('HINCRBY', META, 'jobs', redis.call('HEXISTS', META, 'jobs') * 1048576)
  redis.call('HSET', META, 'generation', ARGV[1])
end
local ids = {}
for i = 6, #ARGV, WORDS do
  local kind, priority, delay, from, key, name, data = unpack(ARGV, i, i + WORDS - 1)
  ids[#ids + 1] =
    put(kind, tonumber(priority), tonumber(delay), tonumber(from), optional(key), optional(name), data)
end
return done(ids, 'sooner')
