# Installations that tests/test_installation.py looks at, made by a provider that is mocked: nothing is
# called. What is asserted here is what variables refuse.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1", name = "eu-central-1" }
  }

  override_resource {
    target = aws_kms_key.values
    values = { arn = "arn:aws:kms:eu-central-1:111122223333:key/1111aaaa-12ab-34cd-56ef-1234567890ab", key_id = "1111aaaa-12ab-34cd-56ef-1234567890ab" }
  }
  override_resource {
    target = aws_kms_key.table
    values = { arn = "arn:aws:kms:eu-central-1:111122223333:key/2222bbbb-12ab-34cd-56ef-1234567890ab", key_id = "2222bbbb-12ab-34cd-56ef-1234567890ab" }
  }
  override_resource {
    target = aws_kms_key.logs
    values = { arn = "arn:aws:kms:eu-central-1:111122223333:key/3333cccc-12ab-34cd-56ef-1234567890ab", key_id = "3333cccc-12ab-34cd-56ef-1234567890ab" }
  }
  override_resource {
    target = aws_dynamodb_table.vault
    values = { arn = "arn:aws:dynamodb:eu-central-1:111122223333:table/ibyok" }
  }
  override_resource {
    target = aws_iam_role.server
    values = { arn = "arn:aws:iam::111122223333:role/ibyok-server" }
  }
  override_resource {
    target = aws_iam_role.rewrap
    values = { arn = "arn:aws:iam::111122223333:role/ibyok-rewrap" }
  }
  override_resource {
    target = aws_iam_role.table
    values = { arn = "arn:aws:iam::111122223333:role/ibyok-table" }
  }
  override_resource {
    target = aws_iam_role.events
    values = { arn = "arn:aws:iam::111122223333:role/ibyok-trail" }
  }
  override_resource {
    target = aws_s3_bucket.trail
    values = { arn = "arn:aws:s3:::ibyok-trail-111122223333-eu-central-1" }
  }
  override_resource {
    target = aws_cloudwatch_log_group.events
    values = { arn = "arn:aws:logs:eu-central-1:111122223333:log-group:/ibyok/trail" }
  }
  override_resource {
    target = aws_sns_topic.alarms
    values = { arn = "arn:aws:sns:eu-central-1:111122223333:ibyok-alarms" }
  }
  override_resource {
    target = aws_vpc_endpoint.dynamodb
    values = { prefix_list_id = "pl-0123456789abcdef0" }
  }
  override_resource {
    target = aws_vpc_endpoint.interface
    values = { dns_entry = [{ dns_name = "vpce-1.kms.eu-central-1.vpce.amazonaws.com", hosted_zone_id = "Z1" }] }
  }
}

variables {
  key_administrators = ["arn:aws:iam::111122223333:role/admin"]
}

run "irsa" {
  command = apply

  variables {
    irsa = {
      provider_arn = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/ABC"
      issuer       = "oidc.eks.eu-central-1.amazonaws.com/id/ABC"
    }
    availability_zones = ["eu-central-1a", "eu-central-1b"]
    client_cidrs       = ["10.0.0.0/8"]
    trail_readers      = ["arn:aws:iam::111122223333:role/auditor"]
    alarm_emails       = ["oncall@example.com"]
  }
}

run "pod_identity" {
  command = apply

  variables {
    pod_identity_cluster   = "prod"
    rewrap_role            = true
    operators              = ["arn:aws:iam::111122223333:role/operator"]
    other_kms_keys         = ["arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
    recovery_regions       = ["eu-west-1"]
    multi_region           = true
    endpoint_private_dns   = false
    trail_lock_days        = 90
    client_security_groups = ["sg-0123456789abcdef0"]
    network = {
      vpc_id          = "vpc-0123456789abcdef0"
      subnet_ids      = ["subnet-0123456789abcdef0"]
      route_table_ids = ["rtb-0123456789abcdef0"]
    }
  }
}

run "instances_without_a_trail" {
  command = apply

  variables {
    server_services    = ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"]
    availability_zones = ["eu-central-1a"]
    trail              = false
    alarm_topics       = ["arn:aws:sns:eu-central-1:111122223333:oncall"]
  }
}

run "nobody_becomes_the_server" {
  command = plan

  variables {
    availability_zones = ["eu-central-1a"]
  }

  expect_failures = [aws_iam_role.server]
}

run "a_vpc_without_zones" {
  command = plan

  variables {
    pod_identity_cluster = "prod"
  }

  expect_failures = [aws_vpc.vault]
}

run "a_lock_beyond_the_retention" {
  command = plan

  variables {
    pod_identity_cluster = "prod"
    availability_zones   = ["eu-central-1a"]
    trail_lock_days      = 401
  }

  expect_failures = [aws_s3_bucket_lifecycle_configuration.trail]
}

run "what_variables_refuse" {
  command = plan

  variables {
    pod_identity_cluster  = "prod prod"
    availability_zones    = ["eu-central-1a", "eu-central-1a"]
    name                  = "IBYOK"
    table_name            = "a table"
    key_administrators    = ["arn:aws:iam::111122223333:role/*"]
    operators             = ["*"]
    trail_readers         = ["arn:aws:iam::111122223333:root"]
    rotation_period_days  = 10
    key_deletion_days     = 1
    other_kms_keys        = ["arn:aws:kms:eu-west-1:444455556666:alias/all"]
    recovery_regions      = ["*"]
    server_services       = ["lambda.amazonaws.com"]
    kubernetes            = { namespace = "*" }
    irsa                  = { provider_arn = "arn:aws:iam::111122223333:oidc-provider/a", issuer = "https://a" }
    network               = { vpc_id = "vpc-1", subnet_ids = [], route_table_ids = [] }
    vpc_cidr              = "10.0.0.0/28"
    server_port           = 0
    client_cidrs          = ["0.0.0.0/0"]
    trail_retention_days  = 1
    trail_lock_days       = -1
    events_retention_days = 2
    kms_quota_percent     = 100
  }

  expect_failures = [
    var.pod_identity_cluster, var.availability_zones, var.name, var.table_name, var.key_administrators,
    var.operators, var.trail_readers, var.rotation_period_days, var.key_deletion_days, var.other_kms_keys,
    var.recovery_regions, var.server_services, var.kubernetes, var.irsa, var.network, var.vpc_cidr,
    var.server_port, var.client_cidrs, var.trail_retention_days, var.trail_lock_days,
    var.events_retention_days, var.kms_quota_percent,
  ]
}

run "service_accounts_that_share_rights" {
  command = plan

  variables {
    pod_identity_cluster = "prod"
    availability_zones   = ["eu-central-1a"]
    kubernetes           = { table = "ibyok" }
  }

  expect_failures = [var.kubernetes]
}
