// What cannot be asked of a server: which Debian package brings an extension, and which libraries
// an extension needs loaded from the start.

/** Extensions of PostgreSQL's own contrib folder; Debian's postgresql-NN package holds them all. */
const CONTRIB = new Set(
  `adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance
   file_fdw fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime old_snapshot
   pageinspect pg_buffercache pg_freespacemap pg_logicalinspect pg_overexplain pg_prewarm pg_stat_statements
   pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple postgres_fdw refint seg
   sslinfo tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp xml2`.split(/\s+/),
)

/** Names of Debian packages that are not made of the extension's name; NN stands for the major. */
const PACKAGES: Readonly<Record<string, string>> = {
  address_standardizer: 'postgresql-NN-postgis-3',
  bool_plperl: 'postgresql-plperl-NN',
  h3: 'postgresql-NN-h3',
  hstore_plperl: 'postgresql-plperl-NN',
  hstore_plpython3u: 'postgresql-plpython3-NN',
  jsonb_plperl: 'postgresql-plperl-NN',
  jsonb_plpython3u: 'postgresql-plpython3-NN',
  ltree_plpython3u: 'postgresql-plpython3-NN',
  plperl: 'postgresql-plperl-NN',
  plperlu: 'postgresql-plperl-NN',
  plpython3u: 'postgresql-plpython3-NN',
  pltcl: 'postgresql-pltcl-NN',
  pltclu: 'postgresql-pltcl-NN',
  postgis: 'postgresql-NN-postgis-3',
  postgis_raster: 'postgresql-NN-postgis-3',
  postgis_sfcgal: 'postgresql-NN-postgis-3',
  postgis_tiger_geocoder: 'postgresql-NN-postgis-3',
  postgis_topology: 'postgresql-NN-postgis-3',
  vector: 'postgresql-NN-pgvector',
  pg_hint_plan: 'postgresql-NN-pg-hint-plan',
  pg_catcheck: 'postgresql-NN-pg-catcheck',
  pg_qualstats: 'postgresql-NN-pg-qualstats',
  pg_stat_kcache: 'postgresql-NN-pg-stat-kcache',
  pg_track_settings: 'postgresql-NN-pg-track-settings',
  pg_wait_sampling: 'postgresql-NN-pg-wait-sampling',
  pldbgapi: 'postgresql-NN-pldebugger',
}

/**
 * Libraries that must stand in shared_preload_libraries, by extension. `refuses`: without it the
 * extension cannot even be made; else it can be made and does nothing useful.
 */
const PRELOADS: Readonly<Record<string, { readonly library: string; readonly refuses: boolean }>> = {
  citus: { library: 'citus', refuses: true },
  pg_cron: { library: 'pg_cron', refuses: true },
  pg_qualstats: { library: 'pg_qualstats', refuses: false },
  pg_show_plans: { library: 'pg_show_plans', refuses: false },
  pg_squeeze: { library: 'pg_squeeze', refuses: false },
  pg_stat_kcache: { library: 'pg_stat_kcache', refuses: false },
  pg_stat_monitor: { library: 'pg_stat_monitor', refuses: false },
  pg_stat_statements: { library: 'pg_stat_statements', refuses: false },
  pg_track_settings: { library: 'pg_track_settings', refuses: false },
  pg_wait_sampling: { library: 'pg_wait_sampling', refuses: false },
  pgaudit: { library: 'pgaudit', refuses: true },
  pglogical: { library: 'pglogical', refuses: true },
  powa: { library: 'powa', refuses: false },
  timescaledb: { library: 'timescaledb', refuses: true },
}

/** The Debian package that most likely brings an extension, for a major. */
export function packageOf(extension: string, major: number): string {
  if (CONTRIB.has(extension)) return 'postgresql-contrib'
  const stem = extension.toLowerCase().replace(/^pg_/, '').replaceAll('_', '-')
  const guess = `postgresql-NN-${stem.replace(/[^a-z0-9.+-]/g, '')}`
  return (Object.hasOwn(PACKAGES, extension) ? PACKAGES[extension]! : guess).replace('NN', String(major))
}

/** What an extension needs preloaded, if it is known to need anything. */
export function preloadOf(
  extension: string,
): { readonly library: string; readonly refuses: boolean } | undefined {
  return Object.hasOwn(PRELOADS, extension) ? PRELOADS[extension] : undefined
}
