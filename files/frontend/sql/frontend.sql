-- What the frontend reads. Safe to apply again.
CREATE TABLE IF NOT EXISTS Schools (
  school_id INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(128) NOT NULL,
  score DOUBLE NOT NULL DEFAULT 0,
  PRIMARY KEY (school_id),
  KEY score (score)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_unicode_ci;
