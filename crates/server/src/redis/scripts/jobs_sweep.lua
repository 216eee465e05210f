-- Forgets what finished long ago, a slice of it.
-- ARGV: 4 for how many ms a finished job is known, 5 how many of them are. Answers whether there is more to be done, and whether there is a
-- job to be claimed.
local kept, forgotten = counted('f', 'g'), 0
local until_ms = now + 1 - tonumber(ARGV[4])
for _, member in ipairs(redis.call('ZRANGEBYLEX', STATES, '[f', '(g', 'LIMIT', 0, SLICE)) do
  local row = read(member:sub(-16))
  if row.since >= until_ms and kept <= tonumber(ARGV[5]) then break end
  forget(row)
  kept, forgotten = kept - 1, forgotten + 1
end
local next_due = next_end()
local more = forgotten == SLICE or next_due and next_due <= now
return done({ more and 1 or 0, math.min(1, redis.call('ZCARD', READY)) })
