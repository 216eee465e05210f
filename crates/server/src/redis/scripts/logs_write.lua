-- How the scripts that write change a log.

-- Chunks that are forgotten at once, at most, beside as many as have come: a millisecond or two.
local SLICE = 64

local time = redis.call('TIME')
local now = tonumber(ARGV[2]) or time[1] * 1000 + math.floor(time[2] / 1000)

local function write_log(log)
  local values = { 'epoch', log.epoch, 'generation', log.generation, 'home', log.home }
  for _, field in ipairs(FIELDS) do
    values[#values + 1] = field
    values[#values + 1] = text(log[field])
  end
  redis.call('HSET', META, unpack(values))
end

local function new_log(epoch)
  return { epoch = epoch, generation = ARGV[1], home = '', next = 1, bytes = 0, first = 0, oldest = 0, newest = 0, held = 0 }
end

-- Forgets the oldest chunks that are too old, or too much, when so many entries have come.
local function trim(log, age_ms, bytes_max, come)
  local last
  for _ = 1, SLICE + come do
    local chunk = oldest_chunk()
    if not chunk or chunk[3] + age_ms >= now and log.bytes <= bytes_max then break end
    redis.call('LPOP', CHUNKS)
    log.bytes, last = log.bytes - chunk[4], chunk[2]
  end
  if last then redis.call('XTRIM', ENTRIES, 'MINID', text(last + 1)) end
end
