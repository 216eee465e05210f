-- Changes what takes no room to speak of. ARGV[3] says what.
local changes = {}

-- ARGV: 4 the epoch of a new log. There is one from now on.
function changes.begin()
  if not read_log() then write_log(new_log(ARGV[4])) end
end

-- ARGV: 4 a reader, 5 the epoch, 6 the last number of it that it has done with, 7 how many readers may have a mark. Answers its mark;
-- below zero if there are too many; nothing if the log is of another epoch, where the number would be another entry's.
function changes.mark()
  local log, reader, number = read_log(), ARGV[4], tonumber(ARGV[6])
  if not log or log.epoch ~= ARGV[5] then return false end
  local before = tonumber(redis.call('HGET', MARKS, reader) or '-1')
  if before >= number then return before end
  if before < 0 and redis.call('HLEN', MARKS) >= tonumber(ARGV[7]) then
    local last, lowest
    local all = redis.call('HGETALL', MARKS)
    for i = 1, #all, 2 do
      local mark = tonumber(all[i + 1])
      if not lowest or mark < lowest then last, lowest = all[i], mark end
    end
    if lowest + 1 >= first_number(log) then return -1 end
    redis.call('HDEL', MARKS, last)
    redis.call('HDEL', SEATS, last)
  end
  redis.call('HSET', MARKS, reader, text(number))
  redis.call('SPUBLISH', NEWS, 'moved')
  return number
end

-- ARGV: 4 a reader, 5 the number of who reads ('': somebody new). Answers the number of who reads from now on, which never falls. Those
-- of a server that lost the last ones are above them all the same, by its clock.
function changes.seat()
  local last = tonumber(redis.call('HGET', SEATS, ARGV[4]) or '0')
  local seat = tonumber(ARGV[5]) or math.max(time[1] * 1000000 + time[2], last + 1)
  if seat <= last then return last end
  redis.call('HSET', SEATS, ARGV[4], text(seat))
  redis.call('SPUBLISH', NEWS, 'moved')
  return seat
end

-- ARGV: 4 for how many ms entries are kept, 5 and how many bytes of them.
function changes.trim()
  local log = read_log()
  if not log then return end
  trim(log, tonumber(ARGV[4]), tonumber(ARGV[5]), 0)
  write_log(log)
end

return changes[ARGV[3]]()
