import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { z } from 'zod'
import { parseHost } from '../../scripts/host/host.ts'
import { hostJsonSchema, referenceToml } from '../../scripts/host/reference.ts'
import { hostSchema } from '../../scripts/host/schema.ts'
import { ROOT } from '../support/script.ts'

const CONF = join(ROOT, 'conf')

test('conf/reference.toml: is what the schema says (vitest -u writes it anew)', async () => {
  await expect(referenceToml()).toMatchFileSnapshot(join(CONF, 'reference.toml'))
})

test('conf/host.schema.json: is what the schema says (vitest -u writes it anew)', async () => {
  await expect(hostJsonSchema()).toMatchFileSnapshot(join(CONF, 'host.schema.json'))
})

test('the reference: is a host file itself', () => {
  const host = parseHost(referenceToml())
  expect(Object.keys(host.roles)).toEqual(['xtelem'])
})

/** Keys of the reference, commented out or not, by table: `roles.xtelem` has `login`. */
function keysOf(toml: string): Map<string, string[]> {
  const tables = new Map<string, string[]>([['', []]])
  let table = ''
  for (const line of toml.split('\n')) {
    const header = /^(?:# )?\[+([\w.]+)\]+$/.exec(line)?.[1]
    const key = /^(?:# )?([a-z_]+) = /.exec(line)?.[1]
    if (header !== undefined) tables.set((table = header), [])
    else if (key !== undefined) tables.get(table)!.push(key)
  }
  return tables
}

type Schema = z.core.JSONSchema.BaseSchema

/** Every key of the schema by its path, with `*` for a name: `roles.*.login`. */
function schemaKeys(schema: Schema, path: string): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, inner]) => {
    if (typeof inner === 'boolean') return []
    const here = path === '' ? key : `${path}.${key}`
    const element = inner.type === 'array' ? (inner.items as Schema) : inner.additionalProperties
    const variants = typeof element === 'object' ? (element.oneOf ?? []) : []
    if (variants.length > 0) return variants.flatMap((variant) => schemaKeys(variant, `${here}.*`))
    if (typeof element !== 'object' || element.properties === undefined) {
      return inner.properties ? schemaKeys(inner, here) : [here]
    }
    return schemaKeys(element, inner.type === 'array' ? here : `${here}.*`)
  })
}

test('the reference: has every key of the schema', () => {
  const names = /\.(xtelem|data_array|public|local|s3|nightly|mail|telem)(?=\.|$)/g
  const shown = new Set<string>()
  for (const [table, keys] of keysOf(referenceToml())) {
    const path = table.replaceAll(names, '.*')
    shown.add(path)
    for (const key of keys) shown.add(path === '' ? key : `${path}.${key}`)
  }
  const known = schemaKeys(JSON.parse(hostJsonSchema()) as Schema, '')
  expect(known.filter((key) => !shown.has(key))).toEqual([])
  expect(known.length).toBeGreaterThan(80)
})

test('the reference: with every example switched on it is a host file of its kind', () => {
  const switchedOn = referenceToml()
    .replaceAll(/^# (\[+[\w.]+\]+|[a-z_]+ = )/gm, '$1')
    .replace(/^databases = .*\n/m, '')
    .replace(/^(webhook|authorization) = .*\n/gm, '')
    .replaceAll(/^(data_dir|bindir|url|password|sslmode|ca_file|socket_dir) = .*\n/gm, '')
  expect(() => parseHost(switchedOn)).not.toThrow()
})

test('the defaults in the reference: switched on they change nothing', () => {
  let isOff = false
  const lines = referenceToml()
    .split('\n')
    .map((line) => {
      if (/^(# )?\[/.test(line)) isOff = line.startsWith('#') // a table that is not there has no keys
      const isDefault =
        /^# [a-z_]+ = (true|false|-?\d+|"(add|present)")( |$)/.test(line) && !line.includes('as in [')
      return isDefault && !isOff ? line.slice(2) : line
    })
  expect(lines.join('\n')).not.toBe(referenceToml())
  expect(parseHost(lines.join('\n'))).toEqual(parseHost(referenceToml()))
})

test('the reference: what is touched only when its table is there is not switched on by it', () => {
  const { settings, hba, postgres } = parseHost(referenceToml())
  expect([settings, hba, postgres.tune]).toEqual([undefined, undefined, undefined])
})

test('the JSON schema: knows no other top-level keys than the parser, and says what is required', () => {
  const schema = JSON.parse(hostJsonSchema()) as Schema
  expect(Object.keys(schema.properties!)).toEqual(Object.keys(hostSchema.shape))
  expect(schema.additionalProperties).toBe(false)
  expect(schema.required).toEqual(['format', 'host', 'postgres'])
})

test('every host file in conf/: can be read', async () => {
  const files = (await readdir(CONF)).filter((name) => name.endsWith('.toml'))
  expect(files).toContain('reference.toml')
  for (const name of files) {
    const path = join(CONF, name)
    const text = await readFile(path, 'utf8')
    expect(() => parseHost(text, { path })).not.toThrow()
    expect([name, text.split('\n')[0]]).toEqual([name, '#:schema ./host.schema.json'])
  }
})
