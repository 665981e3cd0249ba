import { expect, test } from 'vitest'
import { type CatalogEntry, chooseBackup } from '../../scripts/backup/catalog.ts'
import { Fail } from '../../scripts/core/fail.ts'
import { dirStore } from '../../scripts/store/dir.ts'
import { sampleDatabase, sampleManifest } from './sample.ts'

const store = dirStore('/nowhere')
const label = (hour: number) => `202611220${hour}0000Z-dump-aaaaaa`.replace('20261122', '20261122T')
const good = (hour: number, job: string, ...names: readonly string[]): CatalogEntry => ({
  label: label(hour),
  store,
  manifest: sampleManifest({
    label: label(hour),
    job,
    databases: names.map((name) => sampleDatabase({ name })),
  }),
})
const bad = (hour: number): CatalogEntry => ({
  label: label(hour),
  store,
  problem: new Fail('backup-damaged', `the manifest of ${label(hour)} is not JSON`),
})

const catalog = [good(1, 'nightly', 'app', 'web'), good(2, 'hourly', 'app'), good(3, 'nightly', 'web')]

test.each([
  ['the newest', {}, 3],
  ['of a job', { job: 'hourly' }, 2],
  ['with a database', { database: 'app' }, 2],
  ['of a job, with a database', { job: 'nightly', database: 'app' }, 1],
  ['latest of a name that is a database too', { database: 'web' }, 3],
])('latest backup: %s: found', (_name, choice, hour) => {
  expect(chooseBackup(catalog, { label: 'latest', ...choice }).manifest.label).toBe(label(hour))
})

test('backup by its label: found, also when newer ones are there', () => {
  expect(chooseBackup(catalog, { label: label(1) }).manifest.label).toBe(label(1))
})

test.each([
  ['latest of an empty catalog', [], { label: 'latest' }, 'there is no backup'],
  ['latest of an unknown job', catalog, { label: 'latest', job: 'x' }, 'there is no backup of job "x"'],
  [
    'latest with an unknown database',
    catalog,
    { label: 'latest', database: 'x' },
    'there is no backup with database "x"',
  ],
  ['an unknown label', catalog, { label: 'x' }, 'there is no backup "x"'],
  [
    'a label of another job',
    catalog,
    { label: label(2), job: 'nightly' },
    `backup ${label(2)} is none of job "nightly"`,
  ],
  [
    'a label without the database',
    catalog,
    { label: label(3), database: 'app' },
    `backup ${label(3)} is none with database "app"`,
  ],
])('backup: %s: backup-missing', (_name, entries, choice, message) => {
  expect(() => chooseBackup(entries, choice)).toThrow(
    expect.objectContaining({ code: 'backup-missing', message }),
  )
})

test('backup: a label with a typing error: the nearest one is named', () => {
  expect(() => chooseBackup(catalog, { label: label(2).replace('dump', 'dmup') })).toThrow(
    expect.objectContaining({ hint: `Did you mean ${label(2)}?` }),
  )
})

test('latest backup that cannot be read: backup-damaged, an older one never stands in for it', () => {
  expect(() => chooseBackup([...catalog, bad(4)], { label: 'latest' })).toThrow(
    expect.objectContaining({ code: 'backup-damaged' }),
  )
})

test('older backup that cannot be read: hides no newer one', () => {
  expect(chooseBackup([bad(0), ...catalog], { label: 'latest' }).manifest.label).toBe(label(3))
})

test('label that two stores have, one of them damaged: the good one', () => {
  expect(chooseBackup([bad(1), ...catalog], { label: label(1) }).manifest.label).toBe(label(1))
})
