import { literalName, renderWord } from './hba.ts'
import type { HbaRule } from './schema.ts'

/** Addresses that a rule means: all that have the same first `length` bits. */
export interface AddressRange {
  readonly family: 4 | 6
  readonly bits: bigint
  readonly length: number
}

/** Somebody who wants in. */
export interface Attempt {
  /** A Unix socket, or TCP with or without TLS. */
  readonly type: 'local' | 'ssl' | 'plain'
  readonly database: string
  readonly user: string
  /** Roles that the user is in, by whatever way. */
  readonly memberOf?: readonly string[]
  /** Of the client; not for a Unix socket. */
  readonly address?: string
  /** Physical replication, which names no database. */
  readonly isReplication?: boolean
}

/**
 * The rule that decides an attempt: the first that matches, whatever comes of it. Lists in files,
 * host names and the server's own networks cannot be known here and match nothing. Pure.
 */
export function firstMatch(rules: readonly HbaRule[], attempt: Attempt): HbaRule | undefined {
  return rules.find(
    (rule) =>
      isOfType(rule.type, attempt.type) &&
      isFrom(rule.address, attempt) &&
      rule.database.some((word) => isDatabase(word, attempt)) &&
      rule.user.some((word) => isUser(word, attempt)),
  )
}

function isOfType(type: HbaRule['type'], attempt: Attempt['type']): boolean {
  if (type === 'local' || attempt === 'local') return type === attempt
  if (type === 'hostssl') return attempt === 'ssl'
  if (type === 'hostnossl') return attempt === 'plain'
  return type !== 'hostgssenc'
}

function isFrom(address: string | undefined, attempt: Attempt): boolean {
  if (address === undefined || address === 'all') return true
  const { range } = parseAddress(address)
  const client = attempt.address === undefined ? undefined : parseIp(attempt.address)
  if (!range || !client) return false
  return covers(range, { ...client, length: width(client.family) })
}

function isDatabase(
  word: string,
  { database, user, memberOf = [], isReplication = false }: Attempt,
): boolean {
  if (isReplication || word === 'replication') return isReplication && word === 'replication'
  if (word === 'all') return true
  if (word === 'sameuser') return database === user
  if (word === 'samerole' || word === 'samegroup') return [user, ...memberOf].includes(database)
  return isNamed(word, database)
}

function isUser(word: string, { user, memberOf = [] }: Attempt): boolean {
  if (word === 'all') return true
  if (/^\+./.test(word)) return [user, ...memberOf].includes(word.slice(1))
  return isNamed(word, user)
}

function isNamed(word: string, name: string): boolean {
  if (/^@./.test(word)) return false
  if (/^\/./.test(word)) return isLike(name, word.slice(1))
  return (literalName(word) ?? word) === name
}

// PostgreSQL's regular expressions are richer, but what is written in practice means the same in both.
function isLike(name: string, pattern: string): boolean {
  try {
    return new RegExp(pattern, 'u').test(name)
  } catch {
    return false
  }
}

/**
 * Whether a rule can never decide anything, because each of its databases and users is taken by
 * an earlier one already. Pure.
 */
export function isUnreachable(rule: HbaRule, earlier: readonly HbaRule[], major: number): boolean {
  const before = earlier.filter(
    ({ type, address }) => takesType(type, rule.type) && takesFrom(address, rule.address),
  )
  return rule.database.every((database) =>
    rule.user.every((user) =>
      before.some(
        (other) =>
          other.database.some((word) => takesDatabase(word, database, major)) &&
          other.user.some((word) => word === 'all' || isSameWord(word, user, major)),
      ),
    ),
  )
}

function takesType(type: HbaRule['type'], other: HbaRule['type']): boolean {
  return type === other || (type === 'host' && other !== 'local')
}

function takesFrom(address: string | undefined, other: string | undefined): boolean {
  if (address === other || address === 'all') return true
  if (address === undefined || other === undefined) return false
  const { range } = parseAddress(address)
  const { range: inner } = parseAddress(other)
  return range !== undefined && inner !== undefined && covers(range, inner)
}

function takesDatabase(word: string, other: string, major: number): boolean {
  return (word === 'all' && other !== 'replication') || isSameWord(word, other, major)
}

function isSameWord(word: string, other: string, major: number): boolean {
  return renderWord(word, 'database', major) === renderWord(other, 'database', major)
}

/** What the address of a rule is: a range; neither for a word of pg_hba.conf or a host's name; or a problem. */
export interface Address {
  readonly range?: AddressRange
  readonly problem?: string
}

/** Reads a CIDR address, or an address and a mask with a space between. Pure. */
export function parseAddress(text: string): Address {
  if (/^(all|samehost|samenet)$/.test(text)) return {}
  const [base, mask] = text.includes(' ') ? text.split(/ +/) : text.split('/')
  const ip = parseIp(base!)
  if (!ip) return isHostName(text) ? {} : { problem: 'it is no network and no name of a host' }
  const bits = width(ip.family)
  if (mask === undefined) return { problem: `a single address needs its length: ${text}/${bits}` }
  const length = text.includes('/') ? prefixLength(mask, ip.family) : maskLength(mask, ip.family)
  if (length === undefined) return { problem: `"${mask}" is no mask: it is the first 0 to ${bits} bits` }
  const rest = BigInt(bits - length)
  const network = (ip.bits >> rest) << rest
  if (network === ip.bits) return { range: { ...ip, length } }
  return {
    problem: `its last ${rest} bits are not zero: write ${formatIp({ ...ip, bits: network })}/${length}`,
  }
}

// All digits and dots would be a wrong address, never a name.
function isHostName(text: string): boolean {
  return /^\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$/.test(text) && /[A-Za-z]/.test(text)
}

function prefixLength(text: string, family: 4 | 6): number | undefined {
  return /^\d{1,3}$/.test(text) && Number(text) <= width(family) ? Number(text) : undefined
}

function maskLength(text: string, family: 4 | 6): number | undefined {
  const mask = parseIp(text)
  if (mask?.family !== family) return undefined
  const bits = mask.bits.toString(2).padStart(width(family), '0')
  return /^1*0*$/.test(bits) ? bits.replace(/0+$/, '').length : undefined
}

function covers(range: AddressRange, other: AddressRange): boolean {
  if (range.family !== other.family || other.length < range.length) return false
  const rest = BigInt(width(range.family) - range.length)
  return range.bits >> rest === other.bits >> rest
}

function width(family: 4 | 6): number {
  return family === 4 ? 32 : 128
}

interface Ip {
  readonly family: 4 | 6
  readonly bits: bigint
}

/** An address, IPv6 without its zone; undefined when it is none. No leading zeros: they mean octal to some. */
function parseIp(text: string): Ip | undefined {
  const bits4 = parseIp4(text)
  if (bits4 !== undefined) return { family: 4, bits: bits4 }
  const [address] = text.split('%')
  const tail = /^(.*:)([\d.]+\.[\d.]+)$/.exec(address!)
  const tailBits = tail ? parseIp4(tail[2]!) : undefined
  if (tail && tailBits === undefined) return undefined
  const groups =
    tailBits === undefined ? address! : `${tail![1]}${hex(tailBits >> 16n)}:${hex(tailBits & 0xffffn)}`
  const bits = parseGroups(groups)
  return bits === undefined ? undefined : { family: 6, bits }
}

function parseIp4(text: string): bigint | undefined {
  const parts = text.split('.')
  const isIp =
    parts.length === 4 && parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256)
  return isIp ? parts.reduce((bits, part) => (bits << 8n) | BigInt(part), 0n) : undefined
}

function parseGroups(text: string): bigint | undefined {
  const halves = text.split('::')
  if (halves.length > 2 || !text.includes(':')) return undefined
  const [head, tail] = halves.map((half) => (half === '' ? [] : half.split(':')))
  const missing = 8 - head!.length - (tail?.length ?? 0)
  if (tail ? missing < 1 : missing !== 0) return undefined
  const groups = [...head!, ...Array.from({ length: missing }, () => '0'), ...(tail ?? [])]
  if (!groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined
  return groups.reduce((bits, group) => (bits << 16n) | BigInt(`0x${group}`), 0n)
}

function formatIp({ family, bits }: Ip): string {
  const size = family === 4 ? 8n : 16n
  const count = family === 4 ? 4 : 8
  const parts = Array.from(
    { length: count },
    (_, index) => (bits >> (size * BigInt(count - 1 - index))) & ((1n << size) - 1n),
  )
  if (family === 4) return parts.join('.')
  return parts
    .map(hex)
    .join(':')
    .replace(/(^|:)(0(:|$)){2,}/, '::')
}

function hex(value: bigint): string {
  return value.toString(16)
}
