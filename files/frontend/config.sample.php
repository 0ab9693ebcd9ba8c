<?php

// The frontend's configuration. Install as /etc/omegaup/frontend/config.php, owner root, group www-data, mode 0640: it
// holds passwords. Another path: fastcgi parameter or environment variable OMEGAUP_CONFIG.
// With opcache.validate_timestamps=0 a change takes effect when PHP-FPM is reloaded.

declare(strict_types=1);

// Redis, the cache (evicts) and the sessions (must not evict). With a proxy on this host in front, its address.
// USER '' means the default user; PASS '' means no authentication.
define('REDIS_HOST', 'redis');
define('REDIS_PORT', 6379);
define('REDIS_USER', 'frontend');
define('REDIS_PASS', 'change-me');
define('REDIS_SESSIONS_HOST', 'redis');
define('REDIS_SESSIONS_PORT', 6380);
define('REDIS_SESSIONS_PASS', 'change-me-too');
// define('REDIS_SESSIONS_REPLICAS', 1);             // default: 0; replicas that must have a session before it counts
// define('REDIS_SESSIONS_USER', 'frontend');        // default: REDIS_USER
// define('REDIS_TLS', false);                       // true: both instances, with our certificate; the host name is verified

// MariaDB or MySQL, as host or host:port (default 3306); 'localhost' would mean a Unix socket: write
// 127.0.0.1. Needs SELECT on Schools and Tags (sql/), and on the
// services' tables Submissions, Runs, Certificates and Certificate_Files.
define('OMEGAUP_DB_HOST', 'mysql:3306');
define('OMEGAUP_DB_USER', 'omegaup_frontend');
define('OMEGAUP_DB_PASS', 'change-me');
define('OMEGAUP_DB_NAME', 'omegaup');
// define('OMEGAUP_DB_TLS', false);                  // true: with our certificate; the host name is verified
// define('OMEGAUP_DB_TLS_INSIST_FILE', '');         // while this file says `preferred` or `off`, a server without TLS will do

// RabbitMQ. Needs permission to write to the exchanges `certificates` and `submissions`, and no other.
define('OMEGAUP_RABBITMQ_HOST', 'rabbitmq');
define('OMEGAUP_RABBITMQ_PORT', 5672);
define('OMEGAUP_RABBITMQ_USERNAME', 'frontend');
define('OMEGAUP_RABBITMQ_PASSWORD', 'change-me');
define('OMEGAUP_RABBITMQ_VHOST', '/');
// define('OMEGAUP_RABBITMQ_TLS', false);            // true: with our certificate; the host name is verified

// The backends. The host name must be in the certificate.
define('OMEGAUP_GRADER_URL', 'https://grader:21680');
define('OMEGAUP_GITSERVER_URL', 'https://gitserver:33861');

// Holds frontend.crt, frontend.key, ca.crt and ca.crl (what the CA revoked), readable by the pool's user. Read at each
// request: a rotation needs no reload.
define('OMEGAUP_SSL_DIR', '/etc/omegaup/ssl');

// define('OMEGAUP_RATE_LIMIT', 60);                 // POST /submit per address and minute
// define('OMEGAUP_PATIENCE_SECONDS', 0);            // a request is tried again for so long while a part is away
// define('OMEGAUP_MAX_SOURCE_BYTES', 131072);       // not above the grader's max_source_bytes
// define('OMEGAUP_REFERENCE_LOGIN', false);         // true: POST /login without a password. For a lab, never for people.
// How long an answer of each is waited for (MariaDB: rounded up to whole seconds).
// define('OMEGAUP_REDIS_TIMEOUT_MS', 1000);
// define('OMEGAUP_DB_TIMEOUT_MS', 2000);
// define('OMEGAUP_RABBITMQ_TIMEOUT_MS', 2000);
// define('OMEGAUP_BACKEND_TIMEOUT_MS', 10000);      // grader and gitserver
// Parts without which GET /health/ answers 503. A part left out still shows in the answer, as "degraded" with 200.
// define('OMEGAUP_HEALTH_REQUIRED', ['mysql', 'redis_cache', 'redis_sessions', 'rabbitmq', 'grader']);
