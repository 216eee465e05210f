-- Looks, and changes nothing: not even what is due.
-- ARGV: 4 what is asked, then as the question says.

local questions = {}
-- Jobs that one page looks at, and bytes of theirs after which it ends: what is asked for by key or attempt may be rare.
local LOOKED_AT_MAX, BYTES_MAX = 1000, 4194304

-- ARGV: 5 a number. Answers the job; nothing if there is none.
function questions.find()
  local row = read(ARGV[5])
  return row and described(row)
end

-- The jobs of a key that are in a state, as members of `states` are ordered; nothing where the key has too many jobs.
local function of_key_in(key, state)
  local from, to = of_key(key)
  local all = redis.call('ZRANGEBYLEX', ORDER, from, to, 'LIMIT', 0, LOOKED_AT_MAX)
  if #all == LOOKED_AT_MAX then return nil end
  local members = {}
  for _, member in ipairs(all) do
    local row = read(member:sub(-16))
    if row.state == state then members[#members + 1] = state .. text(row.since) .. row.id end
  end
  table.sort(members)
  return members
end

local function between(members, from, to)
  local found = {}
  for _, member in ipairs(members) do
    if member >= from and member < to then found[#found + 1] = member end
  end
  return found
end

-- ARGV: 5 and 6 the members of `states` between which to look, the second excluded; 7 the lowest attempt, 8 the key (optional), 9 how many.
-- Answers where the next page begins (false: nowhere), and the jobs.
function questions.list()
  local from, to, key, limit = ARGV[5], ARGV[6], optional(ARGV[8]), tonumber(ARGV[9])
  local state = from:sub(1, 1)
  local members = key and ACTIVE[state] and of_key_in(key, state)
  if members then
    members = between(members, from, to)
  else
    local all_match = not key and tonumber(ARGV[7]) <= 1
    local n = all_match and math.min(limit, LOOKED_AT_MAX) or LOOKED_AT_MAX
    members = redis.call('ZRANGEBYLEX', STATES, '[' .. from, '(' .. to, 'LIMIT', 0, n + 1)
  end
  local found, bytes, last = {}, 0, false
  for looked_at, member in ipairs(members) do
    if #found == limit or looked_at > LOOKED_AT_MAX or bytes > BYTES_MAX then return { last, found } end
    local row = read(member:sub(-16))
    if row.attempt >= tonumber(ARGV[7]) and (not key or row.key == key) then
      found[#found + 1] = described(row)
      bytes = bytes + row.bytes + #row.progress + #row.reason + #row.result
    end
    last = member:sub(2)
  end
  return { false, found }
end

-- Answers how many jobs there are in each state, the bytes, the totals, since when one waits (false: none does), and the time.
function questions.counts()
  local first = redis.call('ZRANGEBYLEX', STATES, '[w', '(x', 'LIMIT', 0, 1)[1]
  local answer = { counted('w', 'x'), counted('d', 'e'), counted('c', 'd'), counted('s', 't'), counted('f', 'g') }
  -- As `Totals::to_array` has them.
  local names = {
    'bytes', 'put', 'known', 'claimed', 'finished', 'failed', 'stalled', 'retried', 'retracted', 'exhausted', 'withdrawn',
    'released',
  }
  for _, n in ipairs(redis.call('HMGET', META, unpack(names))) do
    answer[#answer + 1] = tonumber(n) or 0
  end
  answer[#answer + 1] = first and tonumber(first:sub(2, 17)) or false
  answer[#answer + 1] = now
  return answer
end

return questions[ARGV[4]]()
