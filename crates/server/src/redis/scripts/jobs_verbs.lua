-- One verb about one job.
-- ARGV: 4 the verb, 5 the job's number, then what the verb takes: the number of the lease first, if it is for whoever has one.
-- Answers the job's state, or why nothing was done: 'UNKNOWN', 'LOST' (the lease), 'NOT_STALLED'.

local verbs = {}

-- ARGV: 7 for how many ms from now.
function verbs.extend(row)
  unindex(row)
  row.ends = now + tonumber(ARGV[7])
  index(row)
end

-- ARGV: 7 the result.
function verbs.finish(row)
  tally('finished', 1)
  row.result = ARGV[7]
  enter(row, 'f', 0, now)
end

-- ARGV: 7 the reason, 8 the progress, 9 for how many ms from now.
function verbs.cancel(row)
  row.reason, row.progress = ARGV[7], ARGV[8]
  fail(row, now + tonumber(ARGV[9]), now)
end

-- ARGV: 7 the progress (optional). No attempt was made.
function verbs.release(row)
  tally('released', 1)
  row.progress = optional(ARGV[7]) or row.progress
  enter(row, 'w', 0, now)
end

-- ARGV: 7 the reason, 8 the progress.
function verbs.stall(row)
  row.reason, row.progress = ARGV[7], ARGV[8]
  stall(row, now)
end

function verbs.retry(row)
  tally('retried', 1)
  row.attempt = 1
  enter(row, 'w', 0, now)
end

function verbs.retract(row)
  if row.state ~= 'f' then tally('retracted', 1) end
  if row.state == 'c' then tally('withdrawn', 1) end
  forget(row)
end

local function refusal(row)
  if not row then return 'UNKNOWN' end
  if ARGV[4] == 'retract' then return nil end
  if ARGV[4] == 'retry' then return row.state ~= 's' and 'NOT_STALLED' or nil end
  return (row.state ~= 'c' or row.lease ~= tonumber(ARGV[6])) and 'LOST' or nil
end

local row = current(ARGV[5])
local refused = refusal(row)
if refused then return done(refused) end
verbs[ARGV[4]](row)
-- What a person does is seldom, and told to all who wait, whether it helps them or not.
return done(row.state, (ARGV[4] == 'retry' or ARGV[4] == 'retract') and 'always' or 'sooner')
