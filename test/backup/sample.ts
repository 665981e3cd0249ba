import type { Manifest, ManifestDatabase } from '../../scripts/backup/manifest.ts'

/** One database of a manifest, with what a test changes. */
export function sampleDatabase(change: Partial<ManifestDatabase> = {}): ManifestDatabase {
  return {
    name: 'app',
    file: 'app.dump.zst',
    size: 8_000_000,
    owner: 'app',
    tablespace: 'pg_default',
    encoding: 'UTF8',
    localeProvider: 'libc',
    collate: 'C.UTF-8',
    ctype: 'C.UTF-8',
    locale: null,
    icuRules: null,
    collationVersion: null,
    extensions: [{ name: 'plpgsql', version: '1.0' }],
    roles: ['app'],
    tablespaces: ['pg_default'],
    objects: { tables: 3, indexes: 2 },
    ...change,
  }
}

/** A manifest that holds, with what a test changes. */
export function sampleManifest(change: Partial<Manifest> = {}): Manifest {
  return {
    format: 1,
    label: '20261122T020000Z-dump-k3v9qa',
    job: 'nightly',
    host: 'test',
    cluster: 'test/main',
    kind: 'dump',
    howdah: '0.1.0',
    postgres: { version: '15.18 (Debian 15.18-0+deb12u1)', major: 15 },
    systemIdentifier: '7711112543393214947',
    timeline: 1,
    begun: '2026-11-22T02:00:00.000Z',
    ended: '2026-11-22T02:00:05.500Z',
    hasPasswords: true,
    encrypted: false,
    databases: [sampleDatabase()],
    files: [
      {
        name: 'app.dump.zst',
        size: 100_000,
        sha256: 'a'.repeat(64),
        plainSize: 2_000_000,
        plainSha256: 'b'.repeat(64),
      },
      { name: 'restore.sh', size: 2000, sha256: 'c'.repeat(64) },
    ],
    ...change,
  }
}
