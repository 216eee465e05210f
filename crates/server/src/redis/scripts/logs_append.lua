-- Appends entries, but for those whose names are known.
-- ARGV: 3 for how many ms entries are kept, 4 and how many bytes of them, 5 how many ms a chunk spans, 6 and how many bytes, 7 the epoch
-- of a new log, 8 where this is ('': whoever restarts may have forgotten something), 9 the epoch that the caller knows, 10 and its next
-- number, 11 how many numbers are left out where some were lost, 12 under which generation the caller said where this is; then four of
-- each entry: its time, its name (''), for how many ms that is known, its data.
-- Answers epoch and next number, and of each entry whether it was new; or nothing, if where this is has to be said again.

if ARGV[12] ~= ARGV[1] then return false end

local WORDS, FIRST = 4, 13
-- What an entry counts for beside its data.
local ENTRY_BYTES = 32
local age_ms, bytes_max, chunk_ms, chunk_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local log = read_log() or new_log(ARGV[7])
if log.home == '' and log.next == 1 then log.home = ARGV[8] end

-- A server that took over, or was not set to keep everything, may lack the last entries of the one before, whose numbers may be
-- known to somebody.
local function may_lack_some()
  if log.epoch == ARGV[9] and log.next < tonumber(ARGV[10]) then return true end
  return log.generation ~= ARGV[1] and (ARGV[8] == '' or ARGV[8] ~= log.home)
end

local function end_chunk()
  if log.held == 0 then return end
  redis.call('RPUSH', CHUNKS, cmsgpack.pack({ log.first, log.next - 1, log.newest, log.held }))
  log.held = 0
end

local function append(entry_time, data)
  if log.held >= chunk_bytes or now >= log.oldest + chunk_ms then end_chunk() end
  if log.held == 0 then log.first, log.oldest, log.newest = log.next, now, now end
  local bytes = #data + ENTRY_BYTES
  redis.call('XADD', ENTRIES, text(log.next) .. '-0', 't', entry_time, 'd', data)
  log.next, log.bytes, log.held = log.next + 1, log.bytes + bytes, log.held + bytes
  log.newest = math.max(log.newest, now)
end

local function is_new(name, known_ms)
  return name == '' or redis.call('SET', NAMES .. ':' .. redis.sha1hex(name), '', 'NX', 'PX', known_ms)
end

if may_lack_some() then
  end_chunk()
  log.next = log.next + tonumber(ARGV[11])
end
log.generation, log.home = ARGV[1], ARGV[8]
local answer = { log.epoch, 0 }
for i = FIRST, #ARGV, WORDS do
  local entry_time, name, known_ms, data = unpack(ARGV, i, i + WORDS - 1)
  local new = is_new(name, known_ms)
  if new then append(entry_time, data) end
  answer[#answer + 1] = new and 1 or 0
end
trim(log, age_ms, bytes_max, #answer - 2)
write_log(log)
answer[2] = log.next
redis.call('SPUBLISH', NEWS, 'tip ' .. log.epoch .. ' ' .. text(log.next))
return answer
