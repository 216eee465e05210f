-- Looks, and changes nothing. ARGV[3] says at what.
local looks = {}

-- Answers epoch, the first number, the next and the bytes; or nothing.
function looks.ends()
  local log = read_log()
  return log and { log.epoch, first_number(log), log.next, log.bytes }
end

-- ARGV: 4 from which number, 5 after how many bytes to stop. Answers epoch and next number, and number, time and data of each entry.
function looks.entries()
  -- As many as are read at once; entries may be large.
  local STEP = 16
  local log = read_log()
  if not log then return false end
  local found, from, bytes = { log.epoch, log.next }, ARGV[4], 0
  repeat
    local some = redis.call('XRANGE', ENTRIES, from .. '-0', '+', 'COUNT', STEP)
    for _, entry in ipairs(some) do
      if bytes >= tonumber(ARGV[5]) then return found end
      local number, words = tonumber(entry[1]:match('^%d+')), entry[2]
      found[#found + 1], found[#found + 2], found[#found + 3] = number, words[2], words[4]
      from, bytes = text(number + 1), bytes + #words[4]
    end
  until #some < STEP
  return found
end

-- ARGV: 4 and so on readers. Answers of each its mark, below zero if there is none, and who reads.
function looks.standings()
  local found = {}
  for i = 4, #ARGV do
    found[#found + 1] = tonumber(redis.call('HGET', MARKS, ARGV[i]) or '-1')
    found[#found + 1] = redis.call('HGET', SEATS, ARGV[i]) or '0'
  end
  return found
end

return looks[ARGV[3]]()
