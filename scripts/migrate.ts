#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Applies, takes back and checks the schema migrations of a database.
 *
 *     howdah migrate status -c conf/demo.toml
 *
 * Exit codes: 0 done, 1 the check says no, 2 usage, 10 host file, 20 locked, 30-33 server, 40 hazard, 42 no
 * way back, 60 schemas differ, 63-65 migrations.
 */
import { planOf, rehearseEach, runEach } from './migrate/each.ts'
import { adopt, brokenIndexes, migrate, planDown, planUp, repair } from './migrate/migrate.ts'
import { look, migratedDatabases, type MigrateScope, oneDatabase, openScope } from './migrate/scope.ts'
import { strangers } from './migrate/owners.ts'
import { differenceOf, showStatus } from './migrate/show.ts'
import type { ResetLevel } from './migrate/reset.ts'
import { type LoadedHost, loadHost, requireCluster } from './cluster/open.ts'
import { migrationsFolder } from './cluster/profile.ts'
import { type Call, main, type OptionSpec, type Outcome } from './core/cli.ts'
import { type Code, Fail } from './core/fail.ts'
import type { Change as ProvisionChange } from './plan/change.ts'
import type { Scope } from './plan/provision.ts'
import { beginProgress } from './core/progress.ts'

const FAILS: readonly Code[] = [
  'host-file',
  'file-unreadable',
  'not-permitted',
  'server-unreachable',
  'server-denied',
  'cluster-mismatch',
  'migration-invalid',
]
const CHANGES: readonly Code[] = [
  ...FAILS,
  'lock-held',
  'plan-impossible',
  'migration-failed',
  'migration-diverged',
]
const DATABASE: OptionSpec = { flags: '--database <name>', help: 'this one; default: all, or the only one' }

await main({
  name: 'migrate',
  summary: 'apply, take back and check schema migrations',
  example: 'howdah migrate status -c conf/demo.toml',
  verbs: [
    {
      name: 'up',
      summary: 'apply what is pending',
      options: [
        DATABASE,
        { flags: '--to <version>', help: 'up to this one' },
        { flags: '--out-of-order', help: 'also those that are lower than one that is applied' },
        { flags: '--scratch', help: 'only rehearse all of them in a scratch database: up, down, up' },
      ],
      common: ['file', 'plan'],
      fails: [...CHANGES, 'verify-failed'],
      run: up,
    },
    {
      name: 'down',
      summary: 'take back the last one, or all after a version; what they made is gone',
      options: [DATABASE, { flags: '--to <version>', help: 'the one that stays; 0: none' }],
      common: ['file', 'plan', 'allow'],
      fails: [...CHANGES, 'hazard-refused'],
      run: down,
    },
    {
      name: 'status',
      summary: 'say how each version stands',
      options: [DATABASE],
      common: ['file'],
      fails: FAILS,
      run: status,
    },
    {
      name: 'check',
      summary: 'fail unless the database has exactly the versions of the folder',
      options: [DATABASE, { flags: '--owners', help: 'and all tables belong to the role of the migrations' }],
      common: ['file'],
      fails: FAILS,
      run: check,
    },
    {
      name: 'new',
      summary: 'make a file to write a migration into',
      args: ['<name>'],
      options: [DATABASE],
      common: ['file', 'plan'],
      fails: ['host-file', 'file-unreadable'],
      run: makeNew,
    },
    {
      name: 'new-profile',
      summary: 'make the files of a new profile in the checkout: host file, migration, query, test',
      args: ['<name>'],
      common: ['plan'],
      fails: ['file-unreadable', 'not-permitted'],
      run: makeProfile,
    },
    {
      name: 'adopt',
      summary: 'take over a database that has the schema of a version already, or was migrated by dbmate',
      args: ['[version]'],
      options: [DATABASE, { flags: '--trust', help: 'without comparing the schemas' }],
      common: ['file', 'plan'],
      fails: [...CHANGES, 'verify-failed'],
      run: adoptDatabase,
    },
    {
      name: 'reset',
      summary: 'empty a database, or make its schema or all of it anew, after a backup',
      options: [
        DATABASE,
        {
          flags: '--level <n>',
          help: '1: no rows; 2: tables made anew; 3: database and its roles made anew',
          choices: ['1', '2', '3'],
        },
      ],
      common: ['file', 'plan', 'allow'],
      fails: [...CHANGES, 'hazard-refused', 'server-failed', 'backup-failed'],
      run: reset,
    },
    {
      name: 'import-sqlite',
      summary: "move an application's rows from its SQLite file into a database that has the same schema",
      args: ['<file>'],
      options: [DATABASE],
      common: ['file', 'plan'],
      fails: [...CHANGES, 'verify-failed', 'target-not-empty'],
      run: importFile,
    },
    {
      name: 'repair',
      summary: 'set the ledger right about one version',
      args: ['<version>'],
      options: [
        DATABASE,
        { flags: '--as <state>', help: 'how a half-done one is to be seen', choices: ['applied', 'pending'] },
      ],
      common: ['file', 'plan'],
      fails: CHANGES,
      run: repairVersion,
    },
  ],
})

async function up(call: Call): Promise<Outcome> {
  const to = text(call, 'to')
  const choice = { to, outOfOrder: call.options['outOfOrder'] === true }
  const scopes = to === undefined ? await scopesOf(call) : [await oneScope(call)]
  if (call.options['scratch'] === true) return rehearseEach(scopes)
  if (call.planOnly) return planOf(scopes, (scope) => planUp(scope, choice))
  return runEach(call, scopes, (scope, onChange) => migrate(scope, { direction: 'up', choice }, onChange))
}

async function down(call: Call): Promise<Outcome> {
  const scope = await oneScope(call)
  const to = text(call, 'to')
  const planned = await planDown(scope, to)
  if (call.planOnly) return planOf([scope], () => Promise.resolve(planned))
  if (planned.length > 0 && !call.allow.has('deletes-data')) {
    const files = planned.map(({ migration }) => migration.file).join(', ')
    throw new Fail('hazard-refused', `taking back ${files} deletes what they made, and the rows in it`, {
      hint: 'Take a backup, look at --plan, then say --allow deletes-data.',
    })
  }
  return runEach(call, [scope], (scope, onChange) => migrate(scope, { direction: 'down', to }, onChange))
}

async function status(call: Call): Promise<Outcome> {
  const rows: string[] = []
  const databases: object[] = []
  for (const scope of await scopesOf(call)) {
    const lines = await look(scope)
    const broken = await brokenIndexes(scope)
    rows.push(showStatus(scope.database, lines, broken))
    const versions = lines.map(({ version, name, state, applied }) => ({
      version,
      name,
      state,
      appliedAt: applied?.appliedAt ?? null,
      appliedBy: applied?.appliedBy ?? null,
    }))
    databases.push({ database: scope.database, versions, invalidIndexes: broken })
  }
  return { text: rows.join('\n'), result: { databases } }
}

async function check(call: Call): Promise<Outcome> {
  const rows: string[] = []
  const databases: object[] = []
  for (const scope of await scopesOf(call)) {
    const { differs, row } = differenceOf(scope.database, await look(scope))
    const owners = call.options['owners'] === true ? await strangers(scope) : []
    rows.push(...(row === undefined ? [] : [row]), ...owners.map((line) => `${scope.database}: ${line}`))
    databases.push({ database: scope.database, differs, owners })
  }
  return {
    text: rows.length === 0 ? 'all is applied' : rows.join('\n'),
    result: { databases },
    ok: rows.length === 0,
  }
}

async function makeNew(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const database = oneDatabase(loaded.host, text(call, 'database'))
  const dir = await migrationsFolder(loaded, loaded.host.databases[database]!)
  const { newMigration } = await import('./migrate/new.ts')
  const path = await newMigration(dir, call.args[0]!, call.planOnly)
  return { text: `${call.planOnly ? '+' : 'made'} ${path}`, result: { path } }
}

async function makeProfile({ args, planOnly }: Call): Promise<Outcome> {
  const { newProfile } = await import('./migrate/new-profile.ts')
  const paths = await newProfile(args[0]!, planOnly)
  const rows = paths.map((path) => `${planOnly ? '+' : 'made'} ${path}`)
  return { text: rows.join('\n'), result: { paths } }
}

async function adoptDatabase(call: Call): Promise<Outcome> {
  const scope = await oneScope(call)
  const changes = await adopt(scope, {
    version: call.args[0],
    isTrusted: call.options['trust'] === true,
    planOnly: call.planOnly,
  })
  const noted = call.planOnly
    ? 'would be noted as applied; none would be run'
    : 'are noted as applied; none was run'
  return {
    text: `${scope.database}: ${changes.length} migrations ${noted}`,
    result: { database: scope.database, versions: changes.map(({ migration }) => migration.version) },
  }
}

async function repairVersion(call: Call): Promise<Outcome> {
  const scope = await oneScope(call)
  const as = text(call, 'as') as 'applied' | 'pending' | undefined
  const line = await repair(scope, call.args[0]!, { as, planOnly: call.planOnly })
  return { text: `${scope.database}: ${line}`, result: { database: scope.database, line } }
}

async function reset(call: Call): Promise<Outcome> {
  const loaded = await loadHost(call.file, call.overrides)
  const database = oneDatabase(loaded.host, text(call, 'database'))
  const level = text(call, 'level') as ResetLevel | undefined
  if (level === undefined) {
    throw new Fail('usage', 'how far? --level is missing', {
      hint: '1 empties the tables, 2 makes them anew, 3 the database and its roles, too.',
    })
  }
  // These, as those of other verbs, take longer to load than most migrations take to run.
  const { backupBefore } = await import('./backup/before.ts')
  const { applyHost } = await import('./plan/provision.ts')
  const cluster = await requireCluster(loaded.host)
  const { planReset, runReset, showReset } = await import('./migrate/reset.ts')
  const scope = await provisionScope(loaded, call.overrides)
  if (level !== '1') await assertCanMakeAnew(scope)
  const { readFolder } = await import('./migrate/folder.ts')
  const migrations = await readFolder(await migrationsFolder(loaded, loaded.host.databases[database]!))
  const planned = await planReset(cluster, loaded.host, { database, level, migrations })
  const before = (planOnly: boolean) => backupBefore(loaded, database, { planOnly, json: call.json })
  const backup = planned.isThere ? await before(call.planOnly || !call.allow.has('deletes-data')) : undefined
  const then = level === '1' ? [] : ['then what the host file wants is made: howdah provision apply']
  const first = backup === undefined ? [] : [`first a backup by the job ${backup.job}`]
  const lines = [...first, showReset(planned), ...then].filter(Boolean)
  if (!call.planOnly) {
    if (!call.allow.has('deletes-data')) {
      throw new Fail('hazard-refused', `a reset of ${database} deletes all of its rows`, {
        hint: 'Look at --plan, then say --allow deletes-data.',
      })
    }
    await runReset(cluster, planned)
    if (level !== '1') await applyHost(scope, { allow: new Set() })
  }
  const { steps, stays } = planned
  return {
    text: call.planOnly ? lines.join('\n') : [`${database}: reset`, ...stays].join('\n'),
    result: { database, level, backup: backup ?? null, steps, stays },
  }
}

/** What is dropped is made by provisioning: nothing may stand in its way. */
async function assertCanMakeAnew(scope: Scope): Promise<void> {
  const { planHost } = await import('./plan/provision.ts')
  const { planned } = await planHost(scope)
  const impossible = planned.findings.find(({ level }) => level === 'impossible')
  const hazards = planned.changes.flatMap(({ hazards }) => hazards)
  if (impossible === undefined && hazards.length === 0) return
  throw new Fail(
    'plan-impossible',
    `nothing was dropped, for it could not be made anew: ${impossible?.text ?? `other changes need consent for ${hazards.join(', ')}`}`,
    { hint: 'Bring the host in line first: howdah provision plan' },
  )
}

async function provisionScope(loaded: LoadedHost, overrides: readonly string[]): Promise<Scope> {
  const { planMigrations, runMigrations } = await import('./migrate/provision.ts')
  const migrations = {
    plan: () => planMigrations(loaded),
    run: (onDone: (change: ProvisionChange) => void) => runMigrations(loaded, onDone),
  }
  return { loaded, overrides, only: undefined, migrations }
}

async function importFile(call: Call): Promise<Outcome> {
  const { openSqlite } = await import('./migrate/sqlite.ts')
  const { importSqlite, planImport } = await import('./migrate/sqlite-import.ts')
  const scope = await oneScope(call)
  using file = await openSqlite(call.args[0]!)
  using progress = beginProgress('migrate', call.json)
  const { tables, versions } = call.planOnly
    ? await planImport(scope, file)
    : await importSqlite(scope, file, (table, done, of) => progress.show(`${table}: ${done} of ${of} rows`))
  const verb = call.planOnly ? 'would be moved' : 'moved, and found equal'
  return {
    text: tables.map(({ name, rows }) => `${scope.database}: ${name}: ${rows} rows ${verb}`).join('\n'),
    result: { database: scope.database, versions, tables },
  }
}

async function scopesOf(call: Call): Promise<MigrateScope[]> {
  const loaded = await loadHost(call.file, call.overrides)
  const name = text(call, 'database')
  const all = migratedDatabases(loaded.host)
  const names = name === undefined && all.length > 0 ? all : [oneDatabase(loaded.host, name)]
  const scopes: MigrateScope[] = []
  for (const name of names) scopes.push(await openScope(loaded, name))
  return scopes
}

async function oneScope(call: Call): Promise<MigrateScope> {
  const loaded = await loadHost(call.file, call.overrides)
  return openScope(loaded, oneDatabase(loaded.host, text(call, 'database')))
}

function text(call: Call, name: string): string | undefined {
  const value = call.options[name]
  return typeof value === 'string' ? value : undefined
}
