-- Reads a channel's history.
--
-- ARGV: 3 whether the channel begins now if nothing is known of it (1 or 0), 4 at most so many entries,
--   5 `now`; `last`, and 6 how many; `since`, and 6 the epoch and 7 the offset of the cursor's place in this channel ('': it
--   names none), 8 the stamp up to which all was shown before it; `refill`, and 6 and 7 as above: if something is missing, what
--   there is after that.
-- Answers epoch, offset, stamp of the last, present stamp, whether nothing is missing, entries and bytes held, the entries.

local names = names_of(KEYS[3])
local limit, mode = tonumber(ARGV[4]), ARGV[5]
present()
local meta = read(names, ARGV[3] == '1')

-- A stamp up to which all was shown proves something if it is of this generation, and not of a future that no clock is in.
local function proves(settled) return settled >= generation and settled <= last + SKEW_US end

if not meta then
  -- The generation stands for the place of a channel of which nothing is known.
  local settled = mode == 'since' and (ARGV[6] == '' or ARGV[6] == ARGV[1]) and tonumber(ARGV[8])
  local recovered = mode ~= 'since' or settled and proves(settled) and settled >= now_us - META_TTL_MS * 1000
  return { generation, 0, 0, last, recovered and 1 or 0, 0, 0, {} }
end

local gone = expire(names, meta)
local held = redis.call('LLEN', names.history)
if gone > 0 then
  write(names, meta)
  if held == 0 then unweigh(names) else weigh(names, -gone) end
end

-- The index of the first entry above a stamp.
local function above(stamp)
  local low, high = 0, held
  while low < high do
    local middle = math.floor((low + high) / 2)
    local _, of = head(redis.call('LINDEX', names.history, middle))
    if tonumber(of) <= stamp then low = middle + 1 else high = middle end
  end
  return low
end

local function after_offset(offset)
  local index = offset - (meta.o - held)
  if index >= 0 and index <= held then return index end
end

local function after_place(epoch, offset)
  if epoch == text(meta.e) then return after_offset(tonumber(offset)) end
  if epoch ~= '' and meta.x == epoch .. ':' .. offset then return after_offset(0) end
end

local function after_cursor(epoch, offset, settled)
  if settled > last + SKEW_US then return nil end
  if epoch ~= '' and epoch ~= ARGV[1] then return after_place(epoch, offset) end
  if proves(settled) and settled >= meta.l then return above(settled) end
end

local from
if mode == 'now' then
  from = held
elseif mode == 'last' then
  from = math.max(held - tonumber(ARGV[6]), 0)
elseif mode == 'since' then
  from = after_cursor(ARGV[6], ARGV[7], tonumber(ARGV[8]))
else
  from = after_place(ARGV[6], ARGV[7])
end
local recovered = from and 1 or 0
if not from and mode == 'refill' then
  -- Of another epoch, only what it stored itself is known to be new.
  from = ARGV[6] == text(meta.e) and 0 or above(meta.e)
end
local entries = {}
if from and limit > 0 then entries = redis.call('LRANGE', names.history, from, from + limit - 1) end
return { meta.e, meta.o, meta.s, last, recovered, held, meta.b, entries }
